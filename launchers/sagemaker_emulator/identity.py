"""The emulated account: its number, region and address, and the names of its resources."""

ACCOUNT = "123456789012"
KEYS = {"aws_access_key_id": "emulator", "aws_secret_access_key": "emulator"}  # any keys are accepted


class Identity:
    """One account in one region."""

    def __init__(self, region: str) -> None:
        self.region, self.account = region, ACCOUNT
        self.url = ""  # set once the server listens

    def arn(self, kind: str, name: str) -> str:
        """An ARN of this account: ``identity.arn("training-job", name)``."""
        return f"arn:aws:sagemaker:{self.region}:{self.account}:{kind}/{name}"

    def environment(self) -> dict[str, str]:
        """Environment variables by which an AWS client in another process finds the emulator."""
        return {
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            **{name.upper(): value for name, value in KEYS.items()},
        }
