#!/bin/sh
# Installs the image's contents, run from the root of the source, in two steps, so that a code change
# does not rebuild the large layer with the environment:
#   sh docker/install.sh environment DIR cpu|gpu    DIR/venv: Python and the locked packages
#   sh docker/install.sh package DIR                DIR/code: this project, built as a wheel
# UV and PYTHON override `uv` and the Python of .python-version.
set -eu

uv=${UV:-uv}
step=${1:?environment or package}
venv=${2:?a folder}/venv
code=$2/code

install() {
  "$uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode "$@"
}

case $step in
  environment)
    variant=${3:?cpu or gpu}
    case $variant in
      cpu | gpu) ;;
      *) echo "error: $variant: the image is built for cpu or gpu" >&2; exit 2 ;;
    esac
    "$uv" venv --quiet --python "${PYTHON:-python$(cat .python-version)}" "$venv"
    # Without what only tests and lint need. The lock fixes all versions, and uv checks its hashes.
    sed '/^# tests and lint/,$d' requirements.in |
      install --requirements - --constraints requirements.lock --overrides overrides.txt
    if [ "$variant" = gpu ]; then
      install --no-deps --require-hashes --requirements docker/requirements-gpu.lock
    fi
    echo "$code" >"$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/ssd.pth"
    ;;
  package)
    install --no-deps --no-build-isolation --target "$code" .
    ;;
  *)
    echo "error: $step: the step is environment or package" >&2
    exit 2
    ;;
esac
