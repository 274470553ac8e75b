#!/bin/bash
# Profiles a model once, then builds and runs int8 for every combination of calibration and schema.
# usage: calibration_sweep.sh MODEL INPUT_LIST SAMPLES
set -e
model=$1
list=$2
samples=$3
QAIC=/opt/qti-aic
EXEC=$QAIC/exec/qaic-exec

if [[ ! -x /opt/qti-aic/exec/qaic-runner ]]; then
    echo "the SDK is not installed" >&2
    exit 1
fi

sudo rm -f profile.yaml
sudo $EXEC -m="$model" -aic-hw -aic-hw-version=2.0 -onnx-define-symbol=batch,1 -input-list-file="$list" \
    -num-histogram-bins=512 -profiling-threads=2 -dump-profile=profile.yaml

for calibration in None KLMinimization; do
    for schema in asymmetric symmetric_with_uint8; do
        build=qpc_${calibration}_$schema
        sudo rm -rf "$build" "out_${calibration}_$schema"
        sudo $EXEC -m="$model" -aic-hw -aic-hw-version=2.0 -compile-only -onnx-define-symbol=batch,1 -load-profile=profile.yaml \
            -num-histogram-bins=512 -quantization-calibration=$calibration -quantization-schema=$schema \
            -quantization-precision=Int8 -quantization-precision-bias=Int32 -enable-channelwise \
            -aic-num-cores=2 -aic-binary-dir="$build"
        sudo "$QAIC/exec/qaic-runner" -t "$build" -a 1 -n "$samples" -aic-batch-input-file-list="$list" \
            -write-output-num-samples="$samples" -write-output-dir="out_${calibration}_$schema" | grep Inf/Sec
    done
done
