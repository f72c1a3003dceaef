"""The model that a new one is compared with."""

from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)

MODEL = "model"
BLESSING = "model_blessing"
CANDIDATE = "candidate"


class LatestOtherBlessedModel(LatestBlessedModelStrategy):
    """TFX's latest blessed model, but never the candidate itself.

    When a run is repeated, the candidate is the model that the first run has blessed. Compared with
    itself it would be evaluated and pushed again, though nothing has changed.
    """

    def resolve_artifacts(self, store, input_dict):
        """Artifacts under MODEL and BLESSING, none where no other model is blessed.

        Args:
          input_dict: all models, all blessings, and under CANDIDATE the model of this run.
        """
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        others = [model for model in input_dict[MODEL] if model.id not in candidates]
        found = super().resolve_artifacts(store, {MODEL: others, BLESSING: input_dict[BLESSING]})
        return {**input_dict, **found}
