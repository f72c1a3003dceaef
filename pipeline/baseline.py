"""Earlier models and data that a new model starts from or is compared with."""

import json

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.components.evaluator.constants import (
    ARTIFACT_PROPERTY_BLESSED_KEY,
    ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY,
)
from tfx.dsl.components.common.resolver import Resolver, ResolverStrategy
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.types import Artifact, Channel
from tfx.types.standard_artifacts import ExampleStatistics, Model, ModelBlessing

from pipeline.artifact_files import only_there

MODEL = "model"
BLESSING = "model_blessing"
STATISTICS = "statistics"
CANDIDATE = "candidate"
EXAMPLES = "examples"
GRAPH = "transform_graph"


class LatestOtherBlessedModel(LatestBlessedModelStrategy):
    """TFX's latest blessed model, but never the candidate itself.

    When a run is repeated, the candidate is the model that the first run blessed. Comparing it with
    itself would evaluate and push it again although nothing has changed.
    """

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        """Artifacts under MODEL and BLESSING; none if no other model is blessed.

        Args:
          input_dict: all models, all blessings, and under CANDIDATE this run's model.
        """
        input_dict = only_there(input_dict)
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        others = [model for model in input_dict[MODEL] if model.id not in candidates]
        found = super().resolve_artifacts(store, {MODEL: others, BLESSING: input_dict[BLESSING]})
        return {**input_dict, **found}


class LatestBlessedBaseModel(LatestBlessedModelStrategy):
    """TFX's latest blessed model, except those made by the same training.

    Otherwise a repeated run would start from the model that the first run blessed, and so never be
    cached. With other data or another configuration it does start from that model.
    """

    def __init__(self, custom_config: str) -> None:
        """custom_config: the Trainer's, as JSON."""
        self._custom_config = json.loads(custom_config)

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        """Artifacts under MODEL and BLESSING; none if no other model is blessed.

        Args:
          input_dict: all models and blessings, and under EXAMPLES and GRAPH the training's inputs.
        """
        input_dict = only_there(input_dict)
        current = {a.id for key in (EXAMPLES, GRAPH) for a in input_dict[key]}
        others = [m for m in input_dict[MODEL] if not self._has_made(store, m.id, current)]
        found = super().resolve_artifacts(store, {MODEL: others, BLESSING: input_dict[BLESSING]})
        return {**input_dict, **found}

    def _has_made(self, store: MetadataStore, model_id: int, current: set[int]) -> bool:
        if not current <= _made_from(store, model_id):
            return False
        trainings = store.get_executions_by_id(_makers(store, model_id))
        configs = (t.custom_properties["custom_config"].string_value for t in trainings)
        return any(config and json.loads(config) == self._custom_config for config in configs)


class LatestOtherBlessedData(ResolverStrategy):
    """Statistics of the data that the latest blessed model was trained on, but never this run's.

    A repeated run finds the same statistics, so whatever depends on them stays cached.
    """

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[Artifact]]
    ) -> dict[str, list[Artifact]]:
        """An artifact under STATISTICS; none if no blessed model saw other data.

        Args:
          input_dict: all models, blessings and statistics, and under CANDIDATE this run's.
        """
        # Models without files count too: their data was good enough for a blessing.
        input_dict = {**input_dict, **only_there({STATISTICS: input_dict[STATISTICS]})}
        blessed = {
            blessing.get_int_custom_property(ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY)
            for blessing in input_dict[BLESSING]
            if blessing.get_int_custom_property(ARTIFACT_PROPERTY_BLESSED_KEY)
        }
        current = {artifact.id for artifact in input_dict[CANDIDATE]}
        sources = {
            statistics.id: _made_from(store, statistics.id)
            for statistics in input_dict[STATISTICS]
            if statistics.id not in current
        }
        nothing: dict[str, list[Artifact]] = {key: [] for key in input_dict}
        models = {model.id for model in input_dict[MODEL]}
        for model in sorted(input_dict[MODEL], key=lambda model: model.id, reverse=True):
            if model.id not in blessed:
                continue
            seen = _made_from(store, model.id) - models
            # The model may have seen a copy of the examples without leaks (DropLeaks).
            seen = seen.union(*(_made_from(store, artifact_id) for artifact_id in seen))
            for statistics in input_dict[STATISTICS]:
                if seen & sources.get(statistics.id, set()):
                    return {**nothing, STATISTICS: [statistics]}
        return nothing


def _made_from(store: MetadataStore, artifact_id: int) -> set[int]:
    """Ids of the artifacts that went into an artifact."""
    executions = _makers(store, artifact_id)
    inputs = store.get_events_by_execution_ids(executions) if executions else []
    return {event.artifact_id for event in inputs if event.type == _EVENT.INPUT}


def _makers(store: MetadataStore, artifact_id: int) -> list[int]:
    """Ids of the executions that produced an artifact."""
    events = store.get_events_by_artifact_ids([artifact_id])
    return [event.execution_id for event in events if event.type == _EVENT.OUTPUT]


_EVENT = metadata_store_pb2.Event


class MetadataBaselines:
    """Baselines from ML Metadata, by resolvers, which open-source Kubeflow Pipelines lacks."""

    def data(self, statistics: Channel) -> Resolver:
        """Finds the statistics of the data that the latest blessed model was trained on."""
        return Resolver(
            strategy_class=LatestOtherBlessedData,
            model=Channel(type=Model),
            model_blessing=Channel(type=ModelBlessing),
            statistics=Channel(type=ExampleStatistics),
            candidate=statistics,
        )

    def model(self, model: Channel) -> Resolver:
        """Finds the latest blessed model."""
        return Resolver(
            strategy_class=LatestOtherBlessedModel,
            model=Channel(type=Model),
            model_blessing=Channel(type=ModelBlessing),
            candidate=model,
        )

    def base_model(self, custom_config: dict, data: dict[str, Channel]) -> Resolver:
        """Finds the model that a training starts from.

        Args:
          custom_config: the Trainer's.
          data: channels of the training's inputs, by EXAMPLES and GRAPH.
        """
        return Resolver(
            strategy_class=LatestBlessedBaseModel,
            config={"custom_config": json.dumps(custom_config)},
            model=Channel(type=Model),
            model_blessing=Channel(type=ModelBlessing),
            **data,
        )
