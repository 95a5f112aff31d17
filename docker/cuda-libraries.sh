#!/usr/bin/env bash
# Gathers what a CUDA device needs beside the CPU image, and ends with 1 when any of it is missing.
# Usage: cuda-libraries.sh WHEELS ONNXRUNTIME_NODE OUT
#   WHEELS            where pip put docker/cuda-requirements.txt
#   ONNXRUNTIME_NODE  the npm package
#   OUT               gets onnxruntime/ (ONNX Runtime and its CUDA provider) and lib/ (CUDA, cuDNN)
set -euo pipefail
wheels=$1
node_package=$2
out=$3

fail() {
  echo "cuda-libraries.sh: $*" >&2
  exit 1
}

# A provider fits the ONNX Runtime of its own build: there is no stable interface between them.
wanted=$(sed -nE 's/^ *"version": *"([^"]+)".*/\1/p' "$node_package/package.json")
given=$(find "$wheels" -maxdepth 1 -name 'onnxruntime_gpu-*.dist-info' | sed -E 's/.*onnxruntime_gpu-(.*)\.dist-info$/\1/')
[ "$wanted" = "$given" ] ||
  fail "onnxruntime-node is $wanted, but onnxruntime-gpu is ${given:-missing}: set it to $wanted in docker/cuda-requirements.txt."
commit_of() { grep -a -m 1 -oE 'git-commit-id=[0-9a-f]+' "$1" | head -n 1 || true; }
ours=$(commit_of "$node_package/bin/napi-v6/linux/x64/libonnxruntime.so.1")
theirs=$(commit_of "$wheels/onnxruntime/capi/libonnxruntime.so.$wanted")
[ -n "$ours" ] && [ "$ours" = "$theirs" ] ||
  fail "onnxruntime-node was built from ${ours:-an unknown commit}, onnxruntime-gpu from ${theirs:-an unknown one}."

mkdir -p "$out/onnxruntime" "$out/lib"
cp "$wheels/onnxruntime/capi/libonnxruntime.so.$wanted" "$out/onnxruntime/libonnxruntime.so.1"
cp "$wheels"/onnxruntime/capi/libonnxruntime_providers_{cuda,shared}.so "$out/onnxruntime/"
# Without what nothing here calls: the BLAS and FFTW look-alikes, and the second builds of the compiler.
find "$wheels/nvidia" -name '*.so*' ! -name 'libnvblas*' ! -name 'libcufftw*' ! -name '*.alt.*' \
  -exec cp -t "$out/lib" {} +

# Loaded by name when they are first needed, with or without the number, so that ldd does not show them.
for library in libcudnn.so.9 libcufft.so.12 libnvrtc.so.13; do
  [ -e "$out/lib/$library" ] || fail "$library is missing: name its package in docker/cuda-requirements.txt."
  ln -sf "$library" "$out/lib/${library%.*}"
done

# libcuda.so.1 is the driver: NVIDIA's container toolkit hands in the one of the machine.
missing=
for library in "$out"/onnxruntime/*.so* "$out"/lib/*.so*; do
  lines=$(LD_LIBRARY_PATH="$out/lib:$out/onnxruntime" ldd "$library") || fail "ldd cannot read $library."
  lost=$(awk '/not found/ && $1 != "libcuda.so.1" { print "  " $0 }' <<<"$lines")
  [ -z "$lost" ] || missing+="${library##*/}:"$'\n'"$lost"$'\n'
done
[ -z "$missing" ] || fail "libraries are not found:"$'\n'"$missing"
echo "ONNX Runtime $wanted ($ours) with its CUDA provider: every library but the driver is there."
