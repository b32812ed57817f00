"""The stages of `python launch.py`. A new stage is one file here, and one option in conf/STAGE/OPTION.yaml."""
