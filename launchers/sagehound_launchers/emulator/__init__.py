"""SageMaker on this machine: an emulator that really executes jobs, without Docker and without an account.

``python -m sagehound_launchers.emulator --folder .emulator`` runs it; ``with server.Emulator(folder) as emulator``
does so inside a process. boto3 and AWS's SDK work against ``emulator.url`` unchanged (AWS_ENDPOINT_URL, any keys).
It listens on 127.0.0.1 only, checks no credentials, and runs what it is told to run: it is no service for others.

What it is: operations of SageMaker are ours; S3, IAM, STS, logs, CloudWatch and ECR are moto's. Requests are held
against AWS's own model, and against the rules of AWS that no model tells (unique names, roles, quotas, spot limits,
inputs that exist). A job is a process of this environment: ``train`` or ``serve`` of ``sagehound.container``, run by
the emulator's own Python, whatever the image is called, unless ``Settings.images`` or the request's ContainerEntrypoint
say otherwise.

What it does not do, and where AWS differs:

Containers
    There is no image: nothing is pulled, and the job sees this machine's files, network and packages. SAGEHOUND_OPT_ML
    names the folder that stands for /opt/ml; only paths beneath /opt/ml are mapped, in commands, in the environment's
    values and in the files of input/config, not in hyperparameters. Instance types have no meaning beyond quotas: jobs
    share this machine's cores, memory and accelerators. EnableNetworkIsolation and VpcConfig are kept and do nothing.
Training
    File and FastFile both copy the channel; Pipe, file systems, instance groups, warm pools, training plans, built-in
    algorithms and retries are refused or ignored. Several instances are several processes on 127.0.0.1, 127.0.0.2, ...
    (Linux answers to all of them; macOS wants an alias), which see each other's ports as one machine's. Model and
    output/data come from the first instance; output/data of the others is lost. No data is encrypted.
    AWS's Debugger rules are not evaluated: their status ends as Stopped, with the reason, and never claims a finding.
    The profiler's system metrics are not recorded. Metrics are found line by line, in what the job prints.
    A spot job is interrupted only on demand (below); 30 % of its seconds are billed, as a stand-in for the day's price.
    A job that runs when the emulator ends is Failed, a second after SIGTERM, and is not taken up again.
Tuning
    Strategy Bayesian is a stand-in: random points at first, then points around the best so far. Hyperband compares jobs
    at the same epoch, by thirds, one line of the objective being one epoch; it does not choose the epochs of a job, and
    does not start a stopped job again. Scaling Auto is Logarithmic where a range spans a factor of 100. Checkpoints of
    each training job lie in a folder of its name. ConvergenceDetected, AutoParameters, Autotune and several definitions
    are refused or ignored. There is no Debugger in tuning jobs, as at AWS.
Endpoints, batch transform, processing
    One container for each variant, and one for a transform job, whatever the number of instances; one that exits before
    it is ready fails the endpoint at once. Capacities and weights change at once. Asynchronous and streaming calls,
    shadow variants, explainers, inference components and pipelines, DataProcessing and RecordIO of a transform, Pipe
    and Gzip inputs of a processing job are refused. DataCaptureConfig is kept, and nothing is captured. A model of a
    multi-model endpoint that is written over in S3 is not read again before it is unloaded. A processing job's image
    needs a ContainerEntrypoint, or a ``process`` command in ``Settings.images``. A transform job that is stopped does
    not wait for its container's answer. Several of AWS's sentences are from memory, and may read otherwise.
S3
    One account, no permissions, no signatures checked. Objects, their metadata and buckets survive a restart; older
    versions, ACLs, tags and settings of buckets do not, and neither do uploads in parts that were not completed. A
    job's own uploads and downloads do not pass the network, and so meet no faults.
The rest
    IAM has the role SagehoundRole at every start, and forgets others; ECR's repositories and CloudWatch's metrics are
    forgotten too. Logs of jobs survive, but CloudWatch takes only those of the last 14 days.

Control, for tests and demonstrations (JSON over HTTP; GET tells, DELETE clears):

- POST /_emulator/faults ``[{"operation": "CreateTrainingJob", "kind": "throttle", "times": 2, "after": false}]``;
  operations of other services are named ``s3:PutObject``, ``iam:GetRole``, and ``*`` is every one; kinds are throttle,
  error, expired_token, timeout (``"seconds": 60``) and drop; with ``after`` the operation is executed, its answer lost.
- POST /_emulator/interruptions ``{"job": "a regex", "log": "a text", "times": 1}``: a matching spot job loses its
  instance once its log contains the text.
- POST /_emulator/quotas ``{"ml.p3.2xlarge": 0}``: instances of a type that may run at once (100 of each without it).
- GET /_emulator/requests: how often each operation was executed.
"""
