# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands `mipfed data …`. What they do with the playbooks' answers is in `mipfed.datasets`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mipfed import completion
from mipfed.options import REMOTE, command, new_application
from mipfed.outcome import Outcome
from mipfed.session import Session

data_app = new_application("The data of a federation: what the nodes hold, its metadata, the engine's databases.")


class Protocol(StrEnum):
    """How the data catalogue is asked."""

    HTTPS = "https"
    HTTP = "http"


Pathologies = Annotated[
    list[str] | None, typer.Option("--pathology", metavar="NAME[,NAME]...", help="Only these pathologies.", show_default=False)
]


@command(data_app, "ls", REMOTE, group="data")
def data_ls(session: Session, pathology: Pathologies = None) -> Outcome:
    """Show what every node holds.

    For each pathology and node: datasets with their rows, the metadata's version, whether the engine's database is up to date,
    and what is wrong with the files. Changes nothing.
    """
    from mipfed import datasets

    return datasets.show(session, datasets.names(pathology))


@command(data_app, "consolidate", (*REMOTE, "check", "diff"), group="data")
def data_consolidate(
    session: Session,
    online_cdes: Annotated[bool, typer.Option("--online-cdes", help="Take the metadata from the data catalogue.")] = False,
    datacatalogue_protocol: Annotated[
        Protocol | None, typer.Option(help="How the data catalogue is asked; otherwise mip_data.catalogue.protocol.", show_default=False)
    ] = None,
    datacatalogue_host: Annotated[
        str, typer.Option(metavar="HOST[:PORT]", help="The data catalogue; otherwise mip_data.catalogue.host.", show_default=False)
    ] = "",
    drop_absent: Annotated[
        bool, typer.Option("--drop-absent", help="Drop the datasets of nodes that are away; otherwise they stay as last seen.")
    ] = False,
    review_dataset_labels: Annotated[
        bool, typer.Option("--review-dataset-labels", help="Ask for the label of every pathology and dataset.")
    ] = False,
) -> Outcome:
    """Make the metadata list exactly the datasets that the federation holds.

    Looks at every node, shows the plan and asks; then the master, the hospitals and the portal get the new files. Only what was
    shown is applied. With -y it is done at once. --check stops after the plan.
    """
    from mipfed import datasets

    return datasets.consolidate(
        session,
        online=online_cdes,
        protocol=datacatalogue_protocol.value if datacatalogue_protocol else "",
        host=datacatalogue_host,
        drop_absent=drop_absent,
        review=review_dataset_labels,
    )


@command(data_app, "compile", (*REMOTE, "check"), group="data")
def data_compile(
    session: Session,
    pathology: Pathologies = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE", help="Only on this node; give it once for each.", show_default=False, autocompletion=completion.members
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what is up to date.")] = False,
) -> Outcome:
    """Make the engine's databases of the CSV files.

    Every cell is checked. Only what changed is compiled, and only engines with changed databases are restarted, one after the
    other. A pathology with errors keeps the database that it has. Asks before it starts. --check tells what is not up to date.
    """
    from mipfed import datasets

    return datasets.compiled(session, pathologies=datasets.names(pathology), nodes=node or [], force=force)


@command(data_app, "structure", REMOTE, group="data")
def data_structure(
    session: Session,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to this file.", show_default=False)] = None,
) -> Outcome:
    """Print as JSON which node holds which datasets of which pathologies.

    The shape is that of `mip data consolidate --export-data-structure`. Nothing is printed or written when a node did not answer.
    """
    from mipfed import datasets

    return datasets.structure(session, file)
