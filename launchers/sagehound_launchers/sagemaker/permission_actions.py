"""The actions that the code of each part of Sagehound calls. A test records the calls and compares."""

_CONNECT = {
    *("sts:GetCallerIdentity", "iam:GetRole", "iam:PassRole", "ecr:DescribeImages"),
    *("s3:ListBucket", "s3:CreateBucket"),
}
_FILES = {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
_LOG = {"logs:DescribeLogStreams", "logs:GetLogEvents"}
_MODEL = {"sagemaker:CreateModel", "sagemaker:DescribeModel", "sagemaker:DeleteModel", "sagemaker:AddTags"}
_PROCESSING = {
    *("sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob", "sagemaker:StopProcessingJob"),
    "sagemaker:AddTags",
}
ACTIONS: dict[str, set[str]] = {  # by what is chosen
    "train": _CONNECT
    | _FILES
    | _LOG
    | {
        "sagemaker:CreateTrainingJob",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
        "sagemaker:AddTags",
    },
    "search": _CONNECT
    | _FILES
    | {
        *("sagemaker:CreateHyperParameterTuningJob", "sagemaker:DescribeHyperParameterTuningJob"),
        *("sagemaker:StopHyperParameterTuningJob", "sagemaker:ListTrainingJobsForHyperParameterTuningJob"),
        *("sagemaker:DescribeTrainingJob", "sagemaker:AddTags"),
    },
    "registry": _CONNECT
    | _FILES
    | {
        *("sagemaker:CreateModelPackageGroup", "sagemaker:CreateModelPackage", "sagemaker:ListModelPackages"),
        *("sagemaker:DescribeModelPackage", "sagemaker:UpdateModelPackage", "sagemaker:AddTags"),
    },
    "transform": _CONNECT
    | _FILES
    | _LOG
    | _MODEL
    | {
        *("sagemaker:CreateTransformJob", "sagemaker:DescribeTransformJob", "sagemaker:StopTransformJob"),
        "logs:FilterLogEvents",
        "s3:DeleteObject",  # photos that are no longer in the folder
    },
    "bias": _CONNECT | _FILES | _LOG | _PROCESSING,
    "monitor": _CONNECT | _FILES | _LOG | _PROCESSING,
    "captures": {"s3:ListBucket", "s3:GetObject"},  # monitor=local
    "pipeline": _CONNECT
    | _FILES
    | {
        *("sagemaker:CreatePipeline", "sagemaker:UpdatePipeline", "sagemaker:StartPipelineExecution"),
        *("sagemaker:AddTags", "s3:DeleteObject"),
    },
    "image": {
        *("ecr:DescribeRepositories", "ecr:CreateRepository", "ecr:GetAuthorizationToken", "ecr:PutImage"),
        *("ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart"),
        *("ecr:CompleteLayerUpload", "ecr:BatchGetImage"),
    },
    "deploy": _CONNECT
    | _FILES
    | _LOG
    | _MODEL
    | {
        *("sagemaker:CreateEndpointConfig", "sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"),
        *("sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpointConfig"),
        *("sagemaker:ListTags", "application-autoscaling:RegisterScalableTarget"),
        *("application-autoscaling:PutScalingPolicy", "application-autoscaling:DescribeScalableTargets"),
        *("application-autoscaling:DeregisterScalableTarget", "iam:CreateServiceLinkedRole"),
        *("cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms"),
    },
    "predict": {
        *("sagemaker:InvokeEndpoint", "sagemaker:InvokeEndpointAsync", "sagemaker:DescribeEndpoint"),
        *("sagemaker:DescribeEndpointConfig", "s3:GetObject", "s3:PutObject", "s3:ListBucket"),
    },
    "list and delete": {
        "cloudwatch:GetMetricStatistics",
        *("sagemaker:ListEndpoints", "sagemaker:ListEndpointConfigs", "sagemaker:ListModels", "sagemaker:ListTags"),
        *("sagemaker:ListTrainingJobs", "sagemaker:ListHyperParameterTuningJobs", "sagemaker:ListProcessingJobs"),
        *("sagemaker:ListTransformJobs", "sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig"),
        *("sagemaker:DescribeModel", "sagemaker:DescribeTrainingJob", "sagemaker:DescribeHyperParameterTuningJob"),
        *("sagemaker:DescribeProcessingJob", "sagemaker:DescribeTransformJob", "sagemaker:DeleteEndpoint"),
        *("sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel", "sagemaker:StopTrainingJob"),
        *("sagemaker:StopHyperParameterTuningJob", "sagemaker:StopProcessingJob", "sagemaker:StopTransformJob"),
        *("application-autoscaling:DescribeScalableTargets", "application-autoscaling:DeregisterScalableTarget"),
        "s3:DeleteObject",  # a model of a multi-model endpoint
    },
}
