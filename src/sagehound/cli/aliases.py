"""Names that other programs use for a setting, and Sagehound's override for each.

{} is replaced by the given value. A row with a value applies only to that value. In a row with {}, a part without {} is
omitted if the command line already has that key.
"""

ALIASES = {
    **dict.fromkeys(("model", "arch", "architecture", "net", "network"), "backbone={}"),
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs"), "trainer.max_epochs={}"),
    **dict.fromkeys(("batch", "bs", "batchsize", "train_batch_size"), "data.batch_size={}"),
    **dict.fromkeys(("learning_rate", "base_lr"), "optimizer.lr={}"),
    **dict.fromkeys(("wd", "l2"), "optimizer.weight_decay={}"),
    **dict.fromkeys(("workers", "num_workers", "n_workers"), "data.workers={}"),
    **dict.fromkeys(("patience", "early_stopping", "early_stopping_patience"), "trainer.patience={}"),
    **dict.fromkeys(("optim", "opt"), "optimizer={}"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "lr_schedule"), "schedule={}"),
    **dict.fromkeys(("aug", "augmentation"), "augment={}"),
    **dict.fromkeys(("dataset", "data_dir", "data_path", "path", "dir", "folder", "photos", "images"), "data={}"),
    **dict.fromkeys(("output", "output_dir", "out", "out_dir", "save_dir", "log_dir", "logdir"), "hydra.run.dir={}"),
    **dict.fromkeys(("checkpoint", "ckpt", "ckpt_path", "resume_from"), "resume={}"),
    **dict.fromkeys(("grad_clip", "clip_grad", "max_grad_norm", "gradient_clip_val"), "trainer.gradient_clip={}"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps"), "trainer.accumulate={}"),
    **dict.fromkeys(("val_split", "valid_split", "val_fraction"), "data.valid_fraction={}"),
    **dict.fromkeys(("gpus", "num_gpus", "n_gpus"), "trainer.accelerator=gpu trainer.devices={}"),
    **dict.fromkeys(
        ("gpus=-1", "num_gpus=-1", "gpus=all", "devices=-1"), "trainer.accelerator=gpu trainer.devices=null"
    ),
    **dict.fromkeys(("gpus=true", "num_gpus=true"), "trainer.accelerator=gpu"),
    **dict.fromkeys(
        ("gpus=0", "num_gpus=0", "n_gpus=0", "no_cuda", "cpu", "gpu=false", "cuda=false", "device=cpu"),
        "trainer.accelerator=cpu",
    ),
    **dict.fromkeys(("gpu", "cuda", "device=cuda", "device=cuda:0", "device=gpu"), "trainer.accelerator=gpu"),
    **dict.fromkeys(("device=mps", "accelerator=cuda", "accelerator=mps"), "trainer.accelerator=gpu"),
    **dict.fromkeys(("precision=16", "precision=fp16", "amp=true", "fp16=true"), "trainer.precision=16-mixed"),
    **dict.fromkeys(("precision=bf16", "bf16=true"), "trainer.precision=bf16-mixed"),
    **dict.fromkeys(("precision=32", "precision=fp32", "amp=false", "fp16=false"), "trainer.precision=32-true"),
    **dict.fromkeys(("freeze=true", "freeze_backbone=true"), "finetune=head"),
    **dict.fromkeys(("freeze=false", "freeze_backbone=false"), "finetune=full"),
    "momentum": "optimizer=sgd optimizer.momentum={}",
    "pretrained=false": "finetune=full backbone.pretrained={}",
    "root": "data=folder data.root={}",
    "test_split": "data.test_fraction={}",
    "random_seed": "seed={}",
    "warmup": "schedule.warmup_epochs={}",
    "smoothing": "augment.label_smoothing={}",
}
