"""Does this vision-language model use its images, what does it see in them, and if not, why?"""
