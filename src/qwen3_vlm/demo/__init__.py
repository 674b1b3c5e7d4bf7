"""Generates what a trial run without download or GPU needs: small data sets (embedded worlds) and tiny backbones."""
