#!/bin/sh
# Makes the code of the Lambda function: the folder .local/lambda/function and, beside it, function.zip to upload.
#   infra/lambda/package.sh [folder] [python version] [platform as uv names it]
set -eu
cd "$(dirname "$0")/../.."
out=${1:-.local/lambda}
rm -rf "$out/function" "$out/function.zip"
mkdir -p "$out/function"
.venv/bin/uv pip install --quiet --only-binary :all: --target "$out/function" --python-version "${2:-3.11}" \
  --python-platform "${3:-x86_64-manylinux_2_28}" --constraint requirements/gateway.txt --requirement infra/lambda/requirements.txt
cp -r adapters config functions tasks "$out/function"
find "$out/function" -name __pycache__ -prune -exec rm -r {} +
(cd "$out/function" && python3 -m zipfile -c ../function.zip ./*)
du -sm "$out/function" "$out/function.zip"
