"""SageMaker on this machine: an emulator that executes jobs, without Docker and without an account.

``sagemaker-emulator --folder .emulator`` runs it; ``with server.Emulator(folder) as emulator`` does so in a process.
README.md in this folder says how to use it, and where AWS differs.
"""
