"""The deployment files: objects fit Kubernetes' schemas, configurations fit their protos."""

import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import descriptor_pb2, message_factory, text_format, wrappers_pb2

from serving.model_server.metrics import Metrics
from serving.model_server.model_config import read_metrics_path, read_models

_SERVING = Path(__file__).parents[2] / "serving"
_CONFIGS = _SERVING / "tensorflow_serving"


_MANIFESTS = sorted(
    path for path in (_SERVING / "kubernetes").glob("*.yaml") if path.stem != "kustomization"
)
_IMAGE = "tensorflow/serving:2.16.1"


def _objects():
    for path in _MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield pytest.param(document, id=path.stem)


@pytest.fixture
def inference_service():
    return yaml.safe_load((_SERVING / "kserve" / "inferenceservice.yaml").read_text())


def _object(kind):
    return next(p.values[0] for p in _objects() if p.values[0]["kind"] == kind)


@pytest.mark.parametrize("document", _objects())
def test_objects_fit_the_schemas_of_kubernetes(document):
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_misspelt_and_missing_fields_are_found():
    document = json.loads(json.dumps(_object("Deployment")))
    container = document["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        test_objects_fit_the_schemas_of_kubernetes(document)
    document = json.loads(json.dumps(_object("Deployment")))
    del document["spec"]["selector"]
    with pytest.raises(kubernetes_validate.ValidationError, match="selector"):
        test_objects_fit_the_schemas_of_kubernetes(document)


def test_objects_refer_to_each_other():
    deployment = _object("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert _object("Service")["spec"]["selector"].items() <= labels
    assert _object("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    assert _object("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    target = _object("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {p["targetPort"]: p["port"] for p in _object("Service")["spec"]["ports"]} == ports
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["config"]["configMap"]["name"] == _object("ConfigMap")["metadata"]["name"]
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert sleep < pod["terminationGracePeriodSeconds"]


def test_the_inference_service_fits_the_schema_of_kserve(inference_service):
    schema = json.loads(Path(__file__).with_name("inference_service.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(inference_service)
    model = inference_service["spec"]["predictor"]["model"]
    claims = {v["name"]: v for v in _object("Deployment")["spec"]["template"]["spec"]["volumes"]}
    claim = claims["models"]["persistentVolumeClaim"]["claimName"]
    assert model["storageUri"] == f"pvc://{claim}/{inference_service['metadata']['name']}"
    model["modelFormat"]["nam"] = model["modelFormat"].pop("name")
    inference_service["spec"]["predictor"]["minReplicas"] = "2"
    assert {tuple(error.path)[-1] for error in validator.iter_errors(inference_service)} == {
        "modelFormat",
        "minReplicas",
    }


def test_the_kustomization_applies_all_manifests_and_names_their_image():
    """`kubectl apply -k serving/kubernetes/`."""
    kustomization = yaml.safe_load((_SERVING / "kubernetes" / "kustomization.yaml").read_text())
    assert kustomization["resources"] == [path.name for path in _MANIFESTS]
    (image,) = kustomization["images"]
    assert f"{image['name']}:{image['newTag']}" == _IMAGE


def test_pods_spread_over_nodes_and_zones():
    pod = _object("Deployment")["spec"]["template"]
    constraints = pod["spec"]["topologySpreadConstraints"]
    assert {c["topologyKey"] for c in constraints} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for constraint in constraints:
        # A one-node cluster must still run all pods.
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert (
            constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        )


def test_the_flags_name_mounted_files_and_real_ports(inference_service):
    compose = yaml.safe_load((_CONFIGS / "docker-compose.yaml").read_text())["services"]["serving"]
    container = _object("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == compose["command"]
    assert container["image"] == _IMAGE
    assert compose["image"] == f"${{IMAGE:-{_IMAGE}}}"
    kserve = inference_service["spec"]["predictor"]["model"]
    assert _IMAGE.endswith(f":{kserve['runtimeVersion']}")
    flags = dict(flag.removeprefix("--").split("=") for flag in compose["command"])
    files = {v.removeprefix("/config/") for v in flags.values() if v.startswith("/config/")}
    assert files == {path.name for path in _CONFIGS.glob("*.config")}
    assert {"port": flags["port"], "rest_api_port": flags["rest_api_port"]} == {
        "port": str(container["ports"][0]["containerPort"]),
        "rest_api_port": str(container["ports"][1]["containerPort"]),
    }


def test_the_config_map_holds_the_configuration_files():
    data = _object("ConfigMap")["data"]
    assert data == {path.name: path.read_text() for path in _CONFIGS.glob("*.config")}


def _batching_parameters():
    """An empty BatchingParameters, with the fields that batching.config may use."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        package="test",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    field = descriptor_pb2.FieldDescriptorProto
    # The fields that TensorFlow Serving reads (servables/tensorflow/bundle_factory_util.h).
    for number, (name, kind) in enumerate(
        [
            ("max_batch_size", "Int64Value"),
            ("batch_timeout_micros", "Int64Value"),
            ("max_enqueued_batches", "Int64Value"),
            ("num_batch_threads", "Int64Value"),
            ("enable_large_batch_splitting", "BoolValue"),
            ("max_execution_batch_size", "Int64Value"),
        ],
        start=1,
    ):
        message.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".google.protobuf.{kind}",
            label=field.LABEL_OPTIONAL,
        )
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    return message_factory.GetMessages([wrappers, file])["test.BatchingParameters"]()


def test_configurations_fit_their_protos():
    (model,) = read_models(_CONFIGS / "models.config")
    probe = _object("Deployment")["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert probe["httpGet"]["path"] == f"/v1/models/{model.name}/metadata"
    annotations = _object("Deployment")["spec"]["template"]["metadata"]["annotations"]
    path = read_metrics_path(_CONFIGS / "monitoring.config")
    assert annotations["prometheus.io/path"] == path
    text = (_CONFIGS / "batching.config").read_text()
    parameters = text_format.Parse(text, _batching_parameters())
    # Pictures of different sizes (serving_tensor) must never share a batch.
    assert parameters.enable_large_batch_splitting.value
    assert parameters.max_execution_batch_size.value == 1
    # A queue of 16 requests of the maximum size.
    assert parameters.max_enqueued_batches.value == 16 * parameters.max_batch_size.value


def test_dashboard_and_alerts_use_metrics_and_labels_that_exist():
    metrics = Metrics()
    metrics.request("m", "predict", "REST", "OK", 0.1)
    metrics.run("m", 0.1)
    metrics.load("/m/1", True, 0.1)
    page = metrics.page()
    labels = {
        name: set(re.findall(r"(\w+)=", "".join(re.findall(rf"^{name}{{(.*)}}", page, re.M))))
        for name in set(re.findall(r"^(:[\w:]+){", page, re.M))
    }
    dashboard = json.loads((_SERVING / "monitoring" / "dashboard.json").read_text())
    alerts = yaml.safe_load((_SERVING / "monitoring" / "alerts.yaml").read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    expressions += [rule["expr"] for rule in rules]
    assert len(expressions) >= 12
    for expression in expressions:
        assert expression.count("(") == expression.count(")")
        used = re.findall(r"(:tensorflow[\w:]+)(?:{([^}]*)})?", expression)
        assert used
        for name, selector in used:
            assert set(re.findall(r"(\w+)[=!]", selector)) <= labels[name]
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert {g.strip() for g in group.split(",")} <= labels[used[0][0]]
        # TensorFlow Serving counts the probes, which ask for metadata, as requests.
        for name, selector in used:
            if ":request_latency" in name:
                (apis,) = re.findall('API=~"(.*?)"', selector)
                asked = ("predict", "Predict", "GetModelMetadata", "")
                assert [bool(re.fullmatch(apis, api)) for api in asked] == [
                    True,
                    True,
                    False,
                    False,
                ]
    (asked,) = (rule["expr"] for rule in rules if rule["alert"] == "ModelNotAsked")
    assert ":request_count" not in asked
    for rule in rules:
        assert rule["annotations"].keys() == {"summary", "description"}
    positions = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard["panels"]]
    assert len(set(positions)) == len(positions)
