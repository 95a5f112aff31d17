"""Convert Stable Diffusion 2.1-base and PiSA-SR's LoRAs to a bundle that pisa-serve serves.

python -m pisa_models.convert --base FOLDER_OR_HUB_ID --lora pisa_sr.pkl [--dtype float16] [--out models/pisa-sr]
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pisa_models.convert.bundle import LICENSE, TILES, Options, convert, files_of
from pisa_models.convert.errors import ConversionError

# Each would end the process at once; as SystemExit, it ends after the unfinished folder is removed.
POLITE = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _stopped_politely() -> Iterator[None]:
    # What is ignored stays so: `nohup` asks for that.
    before = {number: handler for number in POLITE if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pisa_models.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, help="folder in diffusers layout, or the id of a hub model")
    parser.add_argument("--lora", required=True, type=Path, help="the official pisa_sr.pkl")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--out", type=Path, default=Path("models/pisa-sr"), help="the bundle (default: %(default)s)")
    parser.add_argument("--replace", action="store_true", help="replace the bundle at --out once the new one is ready")
    parser.add_argument("--license", default=LICENSE, help="for the manifest (default: %(default)s)")
    parser.add_argument("--version", default="1.0.0", help="for the manifest (default: %(default)s)")
    for name, tile in TILES.items():
        parser.add_argument(
            f"--{name}-tile", type=int, default=tile, metavar="CELLS", help="largest tile edge (default: %(default)s)"
        )
    given = parser.parse_args(arguments)
    tiles = {name: getattr(given, f"{name}_tile") for name in TILES}
    if min(tiles.values()) < 1:
        parser.error("tiles have at least one latent cell")
    options = Options(
        base=given.base, lora=given.lora, out=given.out, dtype=given.dtype, license=given.license,
        version=given.version, replace=given.replace, tiles=tiles, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    try:
        with _stopped_politely():
            manifest = convert(options)
    except ConversionError as error:
        sys.exit(f"error: {error}")
    files = files_of(manifest)
    print(f"{given.out}: {sum(file['bytes'] for file in files) / 1e6:.1f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
