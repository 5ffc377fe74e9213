# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed image …`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mipfed.errors import Problem, usage
from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

image_app = new_application("The images of a federation: pinned by digest, saved to a file, loaded from it.")


@command(image_app, "lock", (*REMOTE, "check"), group="image")
def image_lock(session: Session) -> Outcome:
    """Pin every image by its digest.

    Asks the registries, from here or from the master, and writes images.lock beside the inventory. From then on every deploy runs
    exactly these images, also when a tag moves. Contacts no other node.
    """
    from mipfed import release_reports

    session.arguments = ["--check"] if session.options.check else []
    outcome = session.play("hbp.mip.image_lock", session.prepare(), check=session.options.check)
    return release_reports.reported(session, outcome, "image lock", release_reports.image_lock, following="plan")


@command(image_app, "save", REMOTE, group="image")
def image_save(
    session: Session,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER|FILE.tar", help="Where to write it.", show_default=False)],
    with_: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FILE", help="A further file, such as our wheel or Docker's packages; may be repeated."),
    ] = None,
) -> Outcome:
    """Save the images to a signed bundle.

    Fetches every image of images.lock by its digest, from here, without a container engine. A hospital checks the bundle with
    ssh-keygen and sha256sum; README.txt in it tells how.
    """
    from mipfed import release_reports

    files = [path.expanduser().absolute() for path in with_ or ()]
    if lacking := [str(path) for path in files if not path.is_file()]:
        raise usage(f"--with: {', '.join(lacking)} does not exist.")
    lock = session.source.folder / "federation.lock"
    files += [lock] if lock.is_file() else []
    session.arguments = ["--to", str(to)]
    variables = {"image_dest": str(to.expanduser().absolute()), "image_files": [str(path) for path in files]}
    outcome = session.play("hbp.mip.image_save", session.prepare(), variables=variables)
    return release_reports.reported(session, outcome, "image save", release_reports.saved, following=f"image load {to}")


@command(image_app, "load", (*REMOTE, "limit", "check"), group="image")
def image_load(
    session: Session,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `image save` wrote.")],
    signer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Public SSH key of the signer, if not this federation's.", show_default=False),
    ] = None,
) -> Outcome:
    """Load a bundle's images on the nodes, over SSH.

    For nodes without a route to the registry. Signature and checksums are compared here, and the checksum again on each node before
    its engine sees the file. Adds the images to images.lock. Nodes with mip_image_source: loaded run them from the next deploy on.
    """
    from mipfed import release_reports

    path = bundle.expanduser().absolute()
    if not path.exists():
        raise usage(f"{bundle} does not exist.", next=session.call(f"image save --to {bundle}"))
    if signer is not None and not signer.expanduser().is_file():
        raise usage(f"--signer: {signer} does not exist.")
    prepared = session.prepare()
    nodes = [node for node in prepared.nodes if node["kind"] != "ui"]
    session.arguments = [str(bundle), *(["--signer", str(signer)] if signer else [])]
    if not session.options.check:
        named = ", ".join(node["name"] for node in nodes)
        session.confirm(f"The images of {bundle} that {named} lack are sent there and loaded.", f"Load on {len(nodes)} nodes?")
    if session.options.limit and prepared.inventory.groups.get("pusher"):
        # It holds the bundle, whatever the limit.
        session.options = replace(session.options, limit=f"{session.options.limit},pusher")
    variables: dict[str, Any] = {"image_bundle": str(path), "image_targets": [node["name"] for node in nodes]}
    if signer is not None:
        variables["image_signer"] = str(signer.expanduser().absolute())
    outcome = session.play("hbp.mip.image_load", prepared, check=session.options.check, variables=variables)
    outcome = release_reports.reported(session, outcome, "image load", release_reports.image_load, following="deploy")
    data = outcome.result if isinstance(outcome.result, dict) else {}
    for name, entry in (data.get("nodes") or {}).items():
        if entry.get("error") and not any(problem.host == name for problem in outcome.errors):
            outcome.errors.append(Problem("image-not-loaded", str(entry["error"]), host=name, next=session.again()))
    return outcome
