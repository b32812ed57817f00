"""Who calls, and what a role may do: moto would answer that a user calls, and SageMaker's SDKs want a role."""

from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from sagemaker_emulator.identity import ACCOUNT
from sagemaker_emulator.web import Response

ROLE = "SageMakerRole"  # exists at every start
_CALLER = f"""\
<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>\
<Arn>arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE}/emulator</Arn><UserId>AROAEMULATOR:emulator</UserId>\
<Account>{ACCOUNT}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"""


def answer(operation: str, body: bytes) -> Response | None:
    """The response to sts:GetCallerIdentity or iam:SimulatePrincipalPolicy; None for others.

    The emulator checks no permissions, so every action is allowed.
    """
    if operation == "sts:GetCallerIdentity":
        return _xml(_CALLER)
    if operation == "iam:SimulatePrincipalPolicy":
        given = parse_qs(body.decode(errors="replace"))
        actions = [values[0] for name, values in sorted(given.items()) if name.startswith("ActionNames.member.")]
        resource = given.get("ResourceArns.member.1", ["*"])[0]
        results = "".join(
            f"<member><EvalActionName>{escape(action)}</EvalActionName><EvalResourceName>{escape(resource)}</EvalResourceName>"
            "<EvalDecision>allowed</EvalDecision><MatchedStatements/><MissingContextValues/></member>"
            for action in actions
        )
        return _xml(
            '<SimulatePrincipalPolicyResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
            f"<SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated><EvaluationResults>{results}"
            "</EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"
        )
    return None


def _xml(text: str) -> Response:
    return Response(text.encode(), 200, {"Content-Type": "text/xml"})
