"""What one UNet takes in memory: diffusers' own, or the served one, which gives both residuals.

    python -m pisa_models.full_size.unet_memory FOLDER_OF_THE_UNET | FILE.onnx

Prints one JSON line: bytes of weights on disk, and by what the memory of the process grew when they were loaded.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def memory() -> dict[str, int]:
    """Bytes of the resident set, and of it what is no page of a mapped file, which the system could drop."""
    text = Path("/proc/self/status").read_text()
    names = {"residentBytes": "VmRSS", "anonymousBytes": "RssAnon"}
    return {name: 1024 * int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) for name, key in names.items()}


def main() -> None:
    path = Path(sys.argv[1])
    if path.is_dir():
        from diffusers import UNet2DConditionModel

        before = memory()
        unet = UNet2DConditionModel.from_pretrained(path)
        for parameter in unet.parameters():
            parameter.sum()  # the file is mapped: what has not been read is not resident
        files = path.glob("*.safetensors")
    else:
        import onnxruntime

        before = memory()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        assert session is not None
        files = path.parent.glob(f"{path.name}*")
    grown = {name: value - before[name] for name, value in memory().items()}
    print(json.dumps({"fileBytes": sum(file.stat().st_size for file in files)} | grown))


if __name__ == "__main__":
    main()
