"""TFX's Evaluator, with the model's answers in its evaluation."""

from typing import Any

from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import Artifact, artifact_utils, standard_component_specs

from components.evaluator.answers import answers_kept_in


class Executor(executor.Executor):
    """TFX's executor, which also keeps the model's answers."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See TFX's Evaluator."""
        evaluation = artifact_utils.get_single_uri(
            output_dict[standard_component_specs.EVALUATION_KEY]
        )
        with answers_kept_in(evaluation):
            super().Do(input_dict, output_dict, exec_properties)


class Evaluator(component.Evaluator):
    """Same inputs and outputs as TFX's Evaluator."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
