"""What a program can ask for, and what the command line itself uses: load, ablate, audit, trial."""
