"""``imagefleet-worker``: serve models (the default), or verify a model's source.

This module is imported again by every engine (``multiprocessing`` does so): it must stay light.
"""

from __future__ import annotations

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="imagefleet-worker", description="Serve diffusers pipelines")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="serve models (the default); settings come from IMAGEFLEET_* variables")
    verify = commands.add_parser("verify", help="check a model's source and report")
    _add_verify_arguments(verify)
    arguments = parser.parse_args()
    if arguments.command == "verify":
        sys.exit(_verify(arguments))
    code = _serve()
    sys.stdout.flush()
    # Nothing is left to save, and Python would wait for threads that hash, or that hang on a dead disk.
    os._exit(code)


def _add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--uri", required=True, help="file://, pvc://, hf://, s3://, gs:// or oci:// ...")
    parser.add_argument("--digest", help="the folder digest that it must have")
    parser.add_argument("--class-name", help="the pipeline class that it must be")
    parser.add_argument(
        "--credentials", metavar="FOLDER", help="where the Secret of a remote source is mounted"
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=URI[#DIGEST]",
        help="a LoRA adapter to check too; may be given again",
    )
    parser.add_argument(
        "--adapter-credentials",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="where the Secret of the adapter NAME is mounted",
    )
    parser.add_argument("--required", action="store_true", help="exit 3 where the source is not good")
    parser.add_argument("--report", default="/dev/termination-log", help="where to write the finding")


def _verify(arguments: argparse.Namespace) -> int:
    from imagefleet_runtime.worker import verify

    return verify.run(arguments)


def _serve() -> int:
    from imagefleet_runtime.worker.auth import Authenticator
    from imagefleet_runtime.worker.checks import find_hooks
    from imagefleet_runtime.worker.importer import Importer
    from imagefleet_runtime.worker.logs import log
    from imagefleet_runtime.worker.settings import SettingsError, read_settings

    try:
        settings = read_settings(os.environ)
        authenticator = Authenticator(settings.caller_public_key, settings.audience)
        hooks = find_hooks(settings.checks)
    except (SettingsError, ValueError) as error:
        log("bad_settings", message=str(error))
        return 2
    importer = Importer()
    importer.launch()  # before the imports of the server: both take a while, and there may be two cores
    from imagefleet_runtime.worker.server import serve

    return serve(settings, authenticator, hooks, importer)


if __name__ == "__main__":
    main()
