"""The rules as classes of smdebug, which SageMaker's evaluator of custom rules and ``invoke_rule`` run.

``from sagehound.debugger.smdebug_rules import Overfit`` gives a subclass of ``smdebug.rules.rule.Rule``. Every rule of
Sagehound has one, by AWS's name; ``smdebug_rule`` makes one of a rule of your own.
"""

from typing import Any

from sagehound.debugger.evaluator import Evaluator
from sagehound.debugger.findings import line
from sagehound.debugger.rules import make, registry
from sagehound.debugger.rules.rule import Facts, Finding, Rule
from sagehound.debugger.saved import step_of


def smdebug_rule(kind: type[Rule], profile: str = "calibrated") -> type:
    """A subclass of ``smdebug.rules.rule.Rule`` that evaluates a rule.

    Its arguments are a trial, and the rule's parameters as numbers or as text. ``rule.report["Details"]`` has the
    finding.

    Args:
        kind: a rule of Sagehound, or of your own.
        profile: of the parameters that are not given, ``calibrated`` or ``aws``.
    """
    from smdebug.exceptions import NoMoreData, RuleEvaluationConditionMet
    from smdebug.rules.rule import Rule as SmdebugRule

    class Adapted(SmdebugRule):  # type: ignore[misc] # smdebug ships no types
        def __init__(
            self,
            base_trial: Any,  # noqa: ANN401 - smdebug's names and types
            action_str: str = "",
            other_trials: Any = None,  # noqa: ANN401
            **parameters: Any,  # noqa: ANN401
        ) -> None:
            super().__init__(base_trial, action_str, other_trials)
            self.report["RuleParameters"] = str(parameters)
            self._evaluator = Evaluator({"rule": instance(kind, profile, parameters)})

        def invoke_at_step(self, step: int) -> bool:
            """Evaluate one step; step is the global number."""
            return self._note(next(self._evaluator.on_step(step_of(self.base_trial, step)), None))

        def invoke(self, step: int) -> None:
            """Evaluate one step, or judge at the end of the tensors."""
            try:
                super().invoke(step)
            except NoMoreData:
                if self._note(next(self._evaluator.on_end(), None)):
                    raise RuleEvaluationConditionMet(self.rule_name, step, end_of_rule=True) from None
                raise

        def _note(self, result: tuple[str, Finding] | None) -> bool:
            self.report["Datapoints"] += 1
            if result is None:
                return False
            self.report |= {"RuleTriggered": 1, "Violations": 1, "Details": {"Finding": line(result[1])}}
            return True

    Adapted.__name__ = Adapted.__qualname__ = kind.name
    Adapted.__doc__ = kind.__doc__
    return Adapted


def instance(kind: type[Rule], profile: str, parameters: dict[str, Any]) -> Rule:
    """A rule with parameters that may be text, as requests have them.

    Raises:
        ConfigError: it has no such parameter, or the value is not a number.
    """
    for name, known in registry().items():
        if known is kind:
            return make({name: parameters}, profile, Facts())[name]
    return kind(**parameters)


def __getattr__(name: str) -> type:
    """The class of the rule with AWS's name."""
    for kind in registry().values():
        if kind.name == name:
            return smdebug_rule(kind)
    raise AttributeError(f"no rule {name}; choose from {', '.join(kind.name for kind in registry().values())}")
