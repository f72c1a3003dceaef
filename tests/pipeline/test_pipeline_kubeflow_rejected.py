"""Options and settings that `compile` rejects before it writes a file."""

import pytest

import kubeflow_runner

_VOLUMES = "resources.all.volumes=ssd-models:/models"
_IMAGE = "registry/ssd:1"
_VERTEX = (
    *("--vertex", "--pipeline-root", "gs://b/root", "--serving-dir", "gs://b/serving"),
    *("--data", "gs://b/records"),
)


@pytest.mark.parametrize(
    "arguments, settings, expected",
    [
        ((), (), "--serving-dir /models: no volume is mounted there in Pusher"),
        (
            (),
            ("resources.Pusher.volumes=ssd-models:/models",),
            "--serving-dir /models: no volume is mounted there in latest_blessed_model",
        ),
        (("--serving-dir", "models"), (_VOLUMES,), "--serving-dir models: write an absolute"),
        (("--pipeline-root", "/root"), (_VOLUMES,), "--pipeline-root /root: must start with"),
        (("--data", "http://x/y"), (_VOLUMES,), "--data http://x/y: must start with"),
        (("--data", "records"), (_VOLUMES,), "--data records: must start with / or"),
        (("--data", "minio:///records"), (_VOLUMES,), "minio:///records: the bucket is missing"),
        (("--data", "gs:// /x"), (_VOLUMES,), "--data gs:// /x: the bucket is missing"),
        (("--pipeline-root", "s3://"), (_VOLUMES,), "--pipeline-root s3://: the bucket is missing"),
        (("--work-dir", "work"), (_VOLUMES,), "--work-dir work: write an absolute path"),
        (("--work-dir", "s3://b/work"), (_VOLUMES,), "--work-dir s3://b/work: write an absolute"),
        (("--image", ""), (_VOLUMES,), "--image '': must be written as REGISTRY/NAME:TAG"),
        (("--image", "reg/SSD:1"), (_VOLUMES,), "--image 'reg/SSD:1': must be written as"),
        (("--image", "reg/ssd:"), (_VOLUMES,), "--image 'reg/ssd:': must be written as"),
        (("--image", "https://reg/ssd"), (_VOLUMES,), "--image 'https://reg/ssd': must be"),
        (
            (),
            (_VOLUMES, "trainer.warm_start=gs:///model"),
            "trainer.warm_start gs:///model: the bucket is missing",
        ),
        (
            (),
            (_VOLUMES, "resources.Trainer.gpu_count=1", "resources.Trainer.gpu_type=NVIDIA_L4"),
            "resources.Trainer.gpu_type=NVIDIA_L4: not the name of a Kubernetes resource",
        ),
        ((*_VERTEX, "--work-dir", "s3://b/w"), (), "--work-dir s3://b/w: must start with"),
        (
            (*_VERTEX, "--preset", "ssd300-voc"),
            (),
            "resources.Trainer: gpu_count needs the name of a Vertex AI accelerator. Add --set "
            "resources.Trainer.gpu_type=NVIDIA_TESLA_T4",
        ),
        (
            _VERTEX,
            ("resources.all.gpu_count=1", "resources.all.gpu_type=nvidia.com/gpu"),
            "gpu_type=nvidia.com/gpu is not the name of a Vertex AI accelerator",
        ),
        (
            (),
            (
                *(_VOLUMES, "training_job.workers=2", "training_job.image=registry/ssd:1"),
                *("training_job.volumes=claim:/volume", "training_job.gpu_type=NVIDIA_L4"),
            ),
            "training_job.gpu_type=NVIDIA_L4: not the name of a Kubernetes resource",
        ),
        (
            (),
            (_VOLUMES, "resources.Pusher.volumes=other:/models/"),
            "resources.Pusher.volumes: ('other:/models/', 'ssd-models:/models') must mount only",
        ),
        (
            _VERTEX,
            ("training_job.workers=2", "training_job.image=r/i", "training_job.volumes=c:/v"),
            "training_job.workers=2: Vertex AI cannot start a Kubernetes Job",
        ),
        ((), (_VOLUMES, "trainer.anchors=clipped"), "'clipped' does not exist for ssd128-small"),
        (("--pattern", "train/*"), (_VOLUMES,), "--pattern train/*: write {split} in place of"),
        (
            (),
            (_VOLUMES, "serving.infra_validator=kubernetes"),
            "serving.infra_validator=kubernetes: TFX's InfraValidator does not run",
        ),
        (
            (),
            (
                *(_VOLUMES, "training_job.workers=2", "training_job.image=registry/ssd:1"),
                *("training_job.volumes=claim:/volume", "resources.Trainer.gpu_count=1"),
            ),
            "the Trainer only waits for the 2 workers of training_job",
        ),
        (
            (),
            (_VOLUMES, "resources.Trainr.gpu_count=2"),
            "resources.Trainr: unknown component; did you mean Trainer",
        ),
        (
            ("--preset", "ssd300-voc"),
            (_VOLUMES, "resources.Tuner.gpu_count=2"),
            "resources.Tuner: unknown component; did you mean Trainer",
        ),
        (_VERTEX, (_VOLUMES,), "Vertex AI has no Kubernetes volumes"),
        (
            ("--beam", "flink", "--", "--job_endpoint=flink:8099"),
            (_VOLUMES,),
            "--pipeline-root s3://b/root: workers on other machines cannot see the container's",
        ),
        (
            ("--pipeline-root", "gs://b/r", "--beam", "spark", "--", "--job_endpoint=s:8099"),
            (_VOLUMES,),
            "--data s3://b/records: workers on other machines",
        ),
        (("--beam", "multiprocess"), (_VOLUMES,), "--beam multiprocess needs --direct_num_workers"),
        (("--vertex",), (), "--pipeline-root s3://b/root: must start with gs://"),
        ((*_VERTEX, "--data", "/records"), (), "--data /records: must start with gs://"),
        ((*_VERTEX, "--serving-dir", "/m"), (), "--serving-dir /m: must start with gs://"),
    ],
)
def test_pipelines_that_a_cluster_cannot_run_are_rejected(
    tmp_path, capsys, arguments, settings, expected
):
    given = ("--image", _IMAGE, "--pipeline-root", "s3://b/root", "--data", "s3://b/records")
    options = [word for setting in settings for word in ("--set", setting)]
    output = tmp_path / "ssd.yaml"
    # Beam's options come last.
    status = kubeflow_runner.main(["compile", *given, "-o", str(output), *options, *arguments])
    assert status == 2
    assert expected in capsys.readouterr().err
    assert not output.exists()
