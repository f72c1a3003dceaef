"""The compiled pipeline: the content of the file."""

import json
import re
from pathlib import Path

import kfp
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

import kubeflow_runner
from data.fields import HIKAPOK
from data.schema import SAMPLE_SCHEMA, VOC_HIKAPOK_SCHEMA, class_names, read_schema
from pipeline.kubeflow.entrypoint import ARTIFACT_TYPES, translate_input
from trainer import reporting

_SNAPSHOT = Path(__file__).with_name("kubeflow_voc.txt")
_VOLUMES = "resources.all.volumes=ssd-models:/models"
_VOC = (
    "--preset",
    "ssd300-voc",
    "--image",
    "registry/ssd:1",
    "--pipeline-root",
    "s3://bucket/root",
)
_IMAGE = "registry/ssd:1"


def _compile(folder, *arguments, settings=(_VOLUMES,), name="ssd.yaml"):
    options = [word for setting in settings for word in ("--set", setting)]
    status = kubeflow_runner.main(["compile", *arguments, "-o", str(folder / name), *options])
    assert status == 0
    return folder / name


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The VOC pipeline's file, with all kinds of resources."""
    settings = (
        _VOLUMES,
        "resources.all.cpu=2",
        "resources.all.memory_gb=8",
        "resources.all.secrets=REGISTRY_TOKEN=registry/token",
        "resources.Trainer.cpu=8",
        "resources.Trainer.gpu_count=2",
        "resources.Trainer.node_selector=cloud.google.com/gke-accelerator=nvidia-l4",
        "resources.Trainer.tolerations=nvidia.com/gpu:NoSchedule,team=vision:NoExecute",
        "resources.Trainer.volumes=work:/work",
        "resources.Trainer.timeout_s=86400",
        "resources.Trainer.retries=2",
        "resources.ModelCard.cache=false",
    )
    folder = tmp_path_factory.mktemp("compiled")
    arguments = ("--data", "s3://bucket/records", "--work-dir", "/work")
    return _compile(folder, *_VOC, *arguments, settings=settings)


@pytest.fixture(scope="module")
def documents(compiled):
    spec, platform = yaml.safe_load_all(compiled.read_text())
    return spec, platform


def _containers(spec):
    executors = spec["deploymentSpec"]["executors"]
    return {
        name: executors[spec["components"][task["componentRef"]["name"]]["executorLabel"]]
        for name, task in spec["root"]["dag"]["tasks"].items()
    }


def test_kfp_reads_the_file(compiled, documents):
    component = kfp.components.load_component_from_file(str(compiled))
    assert component.pipeline_spec.pipeline_info.name == "ssd-ssd300-voc"
    assert set(component.platform_spec.platforms) == {"kubernetes"}
    assert set(component.component_spec.inputs) == {
        *("data", "steps", "learning_rate", "min_map", "min_map_change")
    }
    spec, platform = documents
    assert json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec()).schema_version == "2.1.0"
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())


def test_every_task_has_the_image_and_the_entry_point(documents):
    spec, _ = documents
    containers = _containers(spec)
    assert {"ImportExampleGen", "Trainer", "Pusher"} <= set(containers)
    for name, executor in containers.items():
        if name == "records":
            continue
        container = executor["container"]
        assert container["image"] == _IMAGE
        assert container["command"] == ["python", "-m", "pipeline.kubeflow.entrypoint"]
        assert container["args"][:1] == ["--executor_class_path"]
        # Open-source Kubeflow ignores it, and has no resolvers.
        assert "lifecycle" not in container
        assert "{{$}}" in container["args"]


def test_only_components_that_request_gpus_get_them(documents, tmp_path):
    def gpus(spec):
        return {
            name: executor["container"]["resources"]["accelerator"]
            for name, executor in _containers(spec).items()
            if "accelerator" in executor.get("container", {}).get("resources", {})
        }

    assert gpus(documents[0]) == {"Trainer": {"type": "nvidia.com/gpu", "count": "2"}}
    arguments = ("--data", "/volume/records")
    voc = yaml.safe_load_all(_compile(tmp_path, *_VOC, *arguments).read_text())
    one = {"type": "nvidia.com/gpu", "count": "1"}
    assert gpus(next(voc)) == {"Trainer": one}
    settings = (_VOLUMES, "tuner.enabled=true")
    tuned = _compile(tmp_path, *_VOC, *arguments, settings=settings).read_text()
    assert gpus(next(yaml.safe_load_all(tuned))) == {"Trainer": one, "Tuner": one}
    sample = ("--image", _IMAGE, "--pipeline-root", "minio://bucket/root")
    spec = next(yaml.safe_load_all(_compile(tmp_path, *sample, *arguments).read_text()))
    assert gpus(spec) == {}
    # A path on a volume needs no importer.
    example_gen = spec["root"]["dag"]["tasks"]["ImportExampleGen"]
    assert "records" not in spec["root"]["dag"]["tasks"]
    assert example_gen["inputs"]["parameters"]["input_base"] == {"componentInputParameter": "data"}


def test_kubernetes_settings_are_in_the_second_document(documents):
    spec, platform = documents
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["Trainer_executor"] == {
        "nodeSelector": {"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}},
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoExecute"},
        ],
        "pvcMount": [
            {"constant": "work", "mountPath": "/work"},
            {"constant": "ssd-models", "mountPath": "/models"},
        ],
        "secretAsEnv": [
            {
                "secretName": "registry",
                "keyToEnv": [{"secretKey": "token", "envVar": "REGISTRY_TOKEN"}],
            }
        ],
        "activeDeadlineSeconds": "86400",
    }
    assert set(executors["Pusher_executor"]) == {"pvcMount", "secretAsEnv"}
    resources = _containers(spec)["Trainer"]["container"]["resources"]
    assert (resources["cpuLimit"], resources["memoryLimit"]) == (8, 8)
    assert _containers(spec)["Pusher"]["container"]["resources"]["cpuRequest"] == 2
    tasks = spec["root"]["dag"]["tasks"]
    assert "retryPolicy" not in tasks["Transform"]
    uncached = {name for name, task in tasks.items() if not task["cachingOptions"]}
    assert uncached == {"records", "ModelCard", "latest-blessed-model", "latest-blessed-data"}


def test_a_training_that_takes_days_is_retried(documents):
    """The window is long enough for all attempts and pauses of a training that takes a week.

    It starts at the first attempt: `firstChildNode.StartedAt.Add(maxDuration)` in
    processNodeRetries, workflow/controller/operator.go of Argo Workflows 4.0.5. Without it KFP
    2.17.0 passes its default of "0" (getTaskRetryStrategyFromInput and addParameterDefault in
    backend/src/v2/compiler/argocompiler/container.go), and nothing is retried.
    """
    policy = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    policy = policy.root.dag.tasks["Trainer"].retry_policy
    assert policy.max_retry_count == 2
    pauses = [
        policy.backoff_duration.seconds * policy.backoff_factor**retry
        for retry in range(policy.max_retry_count)
    ]
    assert pauses[0] >= 30
    assert policy.backoff_max_duration.seconds >= 7 * 24 * 3600 * (1 + len(pauses)) + sum(pauses)


def test_names_are_valid_for_argo(documents):
    tasks = documents[0]["root"]["dag"]["tasks"]
    for name, task in tasks.items():
        assert re.fullmatch("[a-zA-Z0-9][-a-zA-Z0-9]*", name)
        assert task["taskInfo"]["name"] == task["componentRef"]["name"] == name
        assert set(task.get("dependentTasks", ())) <= tasks.keys()
    assert "latest-blessed-model" in tasks["Evaluator"]["dependentTasks"]


def test_the_light_presets_length_is_in_epochs(tmp_path):
    light = ("--preset", "light", "--image", _IMAGE, "--pipeline-root", "s3://bucket/root")
    path = _compile(tmp_path, *light, "--data", "s3://bucket/records", "--work-dir", "/work")
    component = kfp.components.load_component_from_file(str(path))
    inputs = {"data", "epochs", "learning_rate", "min_map", "min_map_change"}
    assert set(component.component_spec.inputs) == inputs
    trainer = next(yaml.safe_load_all(path.read_text()))["root"]["dag"]["tasks"]["Trainer"]
    text = trainer["inputs"]["parameters"]["custom_config"]["runtimeValue"]["constant"]
    settings = json.loads(text)["trainer"]
    assert (settings["detector"], settings["backbone_weights"]) == ("ssd300-lite0", "imagenet")
    assert (settings["epochs"], settings["steps"]) == (50, None)


def test_the_schema_is_embedded_in_the_file(tmp_path):
    arguments = ("--image", _IMAGE, "--pipeline-root", "gs://b/root", "--data", "gs://b/records")
    spec = next(yaml.safe_load_all(_compile(tmp_path, *arguments).read_text()))
    given = spec["root"]["dag"]["tasks"]["ImportSchemaGen"]["inputs"]["parameters"]
    url = given["schema_file"]["runtimeValue"]["constant"]
    found = translate_input({"inputs": {"parameterValues": {"schema_file": url}}})
    path = Path(found["inputs"]["parameterValues"]["schema_file"])
    assert path.read_bytes() == SAMPLE_SCHEMA.read_bytes()
    path.unlink()


def test_the_options_of_compile_reach_the_components(tmp_path):
    places = ("--data", "/volume/records", "--serving-dir", "/served")
    settings = ("resources.all.volumes=c:/served", "trainer.warm_start=latest")

    def compiled(*options):
        path = _compile(tmp_path, *_VOC, *places, *options, settings=settings)
        tasks = next(yaml.safe_load_all(path.read_text()))["root"]["dag"]["tasks"]
        return tasks, lambda task, name: tasks[task]["inputs"]["parameters"][name]["runtimeValue"][
            "constant"
        ]

    tasks, value_of = compiled("--fields", "hikapok")
    (tmp_path / "first").hardlink_to(tmp_path / "ssd.yaml")
    for name in ("latest-blessed-model", "latest-blessed-data", "base-model"):
        assert value_of(name, "model_dir") == "/served/ssd"
        assert tasks[name]["cachingOptions"] == {}
    assert '"/served/ssd"' in value_of("Pusher", "push_destination")
    assert json.loads(value_of("Trainer", "custom_config"))["work_dir"] == "/tmp/unfinished"
    assert json.loads(value_of("DataGate", "fields"))["text"] == HIKAPOK.text
    names = class_names(read_schema(VOC_HIKAPOK_SCHEMA))
    assert json.loads(value_of("DataGate", "classes")) == list(names)
    assert HIKAPOK.text in value_of("ImportSchemaGen", "schema_file")
    for options, pattern in (
        (("--fields", "hikapok"), "{}-*"),
        ((), "{}/*"),
        (("--pattern", "span-{SPAN}/{split}/*"), "span-{{SPAN}}/{}/*"),
    ):
        splits = json.loads(compiled(*options)[1]("ImportExampleGen", "input_config"))["splits"]
        found = {split["name"]: split["pattern"] for split in splits}
        assert found == {name: pattern.format(name) for name in ("train", "eval", "test")}
    assert not (tmp_path / "first").samefile(tmp_path / "ssd.yaml"), "replaced, not rewritten"


def test_the_entry_point_knows_every_artifact_type(documents):
    spec, _ = documents
    titles = {
        yaml.safe_load(artifact["artifactType"]["instanceSchema"])["title"]
        for component in spec["components"].values()
        for side in ("inputDefinitions", "outputDefinitions")
        for artifact in component.get(side, {}).get("artifacts", {}).values()
        if "instanceSchema" in artifact["artifactType"]
    }
    assert {title for title in titles if not title.startswith("tfx.")} == set(ARTIFACT_TYPES)
    for path in ARTIFACT_TYPES.values():
        module, _, name = path.rpartition(".")
        assert getattr(__import__(module, fromlist=[name]), name).TYPE_NAME in ARTIFACT_TYPES


def _code_versions(spec):
    """Code versions by task, as Kubeflow's cache sees them."""
    return {
        name: task["inputs"]["parameters"]["code_version"]["runtimeValue"]["constant"]
        for name, task in spec["root"]["dag"]["tasks"].items()
        if "code_version" in task.get("inputs", {}).get("parameters", {})
    }


def test_an_edited_module_changes_only_the_tasks_that_run_it(documents, tmp_path, monkeypatch):
    edited = Path(kubeflow_runner.__file__).with_name("trainer") / "loss.py"
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == edited))
    path = _compile(tmp_path, *_VOC, "--data", "s3://bucket/records", "--work-dir", "/work")
    before, after = (_code_versions(spec) for spec in (
        documents[0], next(yaml.safe_load_all(path.read_text()))))  # fmt: skip
    assert {"ImportExampleGen", "Transform", "Trainer", "Evaluator", "Pusher"} <= before.keys()
    assert {name for name in before if after[name] != before[name]} == {"Trainer"}


def test_the_compiled_pipeline_matches_the_snapshot(documents, tmp_path):
    actual = _summary(*documents)
    path = tmp_path / _SNAPSHOT.name
    path.write_text(actual)
    assert actual == _SNAPSHOT.read_text(), f"if this change is meant: cp {path} {_SNAPSHOT}"


def _summary(spec, platform) -> str:
    """The compiled pipeline in readable form, one block per task."""
    lines = [
        f"{spec['pipelineInfo']['name']} {spec['schemaVersion']} {spec['defaultPipelineRoot']}"
    ]
    for name, parameter in sorted(spec["root"]["inputDefinitions"]["parameters"].items()):
        kind, default = parameter["parameterType"], parameter["defaultValue"]
        lines.append(f"  {name}: {kind} = {default}")
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, task in sorted(spec["root"]["dag"]["tasks"].items()):
        component = spec["components"][name]
        executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
        lines += ["", name]
        container = executor.get("container")
        if container:
            runs = container["args"][container["args"].index("--executor_class_path") + 1]
            flags = [word for word in container["args"][4:] if word.startswith("--")]
            lines.append(f"  runs {container['image']}: {' '.join(container['command'])} {runs}")
            lines.append(f"  with {' '.join(flags)}")
        else:
            lines.append(f"  imports {json.dumps(executor['importer'], sort_keys=True)}")
        inputs = task.get("inputs", {})
        for key, source in sorted(inputs.get("artifacts", {}).items()):
            output = source["taskOutputArtifact"]
            lines.append(f"  takes {key} of {output['producerTask']}.{output['outputArtifactKey']}")
        for key, source in sorted(inputs.get("parameters", {}).items()):
            kind = component["inputDefinitions"]["parameters"][key]["parameterType"]
            origin = source.get("componentInputParameter")
            lines.append(f"  takes {key}: {kind}" + (f" = {origin} of the run" if origin else ""))
        for key in sorted(component.get("outputDefinitions", {}).get("artifacts", {})):
            lines.append(f"  makes {key}")
        lines.append(f"  after {', '.join(task.get('dependentTasks', ())) or 'nothing'}")
        lines.append(f"  cached {task['cachingOptions'].get('enableCache', False)}")
        for what, asked in (
            ("retries", task.get("retryPolicy")),
            ("asks", container and container.get("resources")),
            ("pod", kubernetes.get(component["executorLabel"])),
        ):
            if asked:
                lines.append(f"  {what} {json.dumps(asked, sort_keys=True)}")
    return "\n".join(lines) + "\n"


def test_bulk_inferrer_is_compiled_if_enabled(tmp_path, documents):
    assert "BulkInferrer" not in _containers(documents[0])
    settings = (_VOLUMES, "bulk_inferrer.enabled=true", "resources.BulkInferrer.cpu=3")
    text = _compile(tmp_path, *_VOC, "--data", "/volume/records", settings=settings).read_text()
    spec = next(yaml.safe_load_all(text))
    container = _containers(spec)["BulkInferrer"]["container"]
    assert container["args"][1] == "tfx.components.bulk_inferrer.executor.Executor"
    assert container["resources"]["cpuLimit"] == 3.0
    inputs = spec["root"]["dag"]["tasks"]["BulkInferrer"]["inputs"]
    producers = {
        name: source["taskOutputArtifact"]["producerTask"]
        for name, source in inputs["artifacts"].items()
    }
    assert producers == {
        "examples": "ImportExampleGen",
        "model": "Trainer",
        "model_blessing": "Evaluator",
    }
    data = json.loads(inputs["parameters"]["data_spec"]["runtimeValue"]["constant"])
    assert data == {"example_splits": ["test"]}


def test_vertex_gets_json_with_its_hook_and_without_importer(tmp_path):
    where = ("--pipeline-root", "gs://b/root", "--data", "gs://b/records")
    place = ("--serving-dir", "gs://b/serving", "--work-dir", "gs://b/work")
    arguments = ("--image", _IMAGE, *where, *place, "--vertex")
    job = json.loads(_compile(tmp_path, *arguments, settings=(), name="ssd.json").read_text())
    assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://b/root"
    spec = job["pipelineSpec"]
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    example_gen = _containers(spec)["ImportExampleGen"]["container"]
    assert "preCacheCheck" in example_gen["lifecycle"]
    assert "records" not in spec["root"]["dag"]["tasks"]
    trainer = spec["root"]["dag"]["tasks"]["Trainer"]["inputs"]["parameters"]
    custom_config = json.loads(trainer["custom_config"]["runtimeValue"]["constant"])
    assert custom_config["work_dir"] == "/gcs/b/work"


def test_reporting_settings_are_in_no_cache_key(tmp_path):
    """Kubeflow's cache key covers a task's parameters, image, command and arguments."""

    def parts(*settings):
        arguments = (*_VOC, "--data", "s3://bucket/records", "--work-dir", "/work")
        path = _compile(tmp_path, *arguments, settings=(_VOLUMES, "tuner.enabled=true", *settings))
        spec = next(yaml.safe_load_all(path.read_text()))
        executors = _containers(spec)
        given = {name: executors[name]["container"].pop("env") for name in ("Tuner", "Trainer")}
        return spec, given

    plain, given = parts()
    other, given_otherwise = parts("trainer.log_every=7", "trainer.keep_checkpoints=9")
    assert plain == other
    for name, variables in given_otherwise.items():
        assert variables != given[name]
        (variable,) = variables
        assert variable["name"] == reporting.VARIABLE
        values = json.loads(variable["value"])
        assert values == {"log_every": 7, "checkpoint_every": 1000, "keep_checkpoints": 9}
