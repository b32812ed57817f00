"""Script mode: what AWS's framework images run to train and to serve a user's script. Run as files, by any Python.

``run_script.py`` and ``serve_script.py`` need the standard library only, so that they run in an environment that
holds nothing but the user's own packages, from Python 3.8 on.
"""
