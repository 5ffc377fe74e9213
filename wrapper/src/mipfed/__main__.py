# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entry point: `mipfed` and `python -m mipfed`."""

from __future__ import annotations


def main() -> None:
    """Run the command line and end the process with one of the codes of `mipfed.exitcodes`."""
    from mipfed.app import app

    app(prog_name="mipfed")


if __name__ == "__main__":
    main()
