"""Several steps in one command: search, training, and the stages, each the input of the next one.

`sagehound launch hpo=optuna trainer=sagemaker registry=sagemaker deploy=sagemaker` runs a command for each step, one
after the other, in folders below one folder. workflow.json there says which are done. The same command again does only
what is missing: a step is known by its overrides and by the content of its inputs.
"""
