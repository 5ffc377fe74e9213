#!/usr/bin/python
# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: data_catalogue
short_description: Ask a data catalogue for the newest CDEs of pathologies
version_added: 0.2.0
description:
  - Gets the newest common data elements (CDEs) of each pathology from the API of a MIP data catalogue, with
    C(GET /pathology/allPathologies/PATHOLOGY/latest_cde_version), several pathologies at once.
  - The answer may be the content of a C(CDEsMetadata.json), or an object whose key C(jsonString) holds that content as a text.
  - An answer counts only if it is complete, can be read as CDEs, breaks none of their rules, and has the code of the pathology.
  - A catalogue that cannot be reached, or does not have a pathology, is no failure of this module. It is told in RV(problems), so that the
    present CDEs can be kept.
  - Redirections are followed on the same server only. Proxies named in the environment are not used.
author:
  - The hbp.mip authors (@HBPMedical)
options:
  protocol:
    description:
      - With V(http) nobody vouches for what comes back.
    type: str
    choices: [http, https]
    default: https
  host:
    description:
      - Name or address of the catalogue, with an optional port, for example C(catalogue.example.org:8443) or C([2001:db8::1]:8443).
    type: str
    required: true
  pathologies:
    description:
      - Codes of the pathologies.
    type: list
    elements: str
    required: true
  ca_file:
    description:
      - Certificates in PEM form of the authorities that may have signed the server's certificate, on this host.
        By default the authorities that this host trusts.
    type: path
  verify:
    description:
      - Whether the server must show a certificate that is valid for O(host). Anybody on the way can answer in its place otherwise.
    type: bool
    default: true
  timeout:
    description:
      - Seconds that one attempt may take in all, from the resolution of the name to the last byte.
    type: float
    default: 20
  retries:
    description:
      - Further attempts after one that failed for a reason that may pass. These are no connection, no or an incomplete answer in time, and
        the statuses 408, 429, 500, 502, 503 and 504.
    type: int
    default: 3
  backoff:
    description:
      - Seconds before the second attempt, varied by up to half of it at random. Before each further attempt it is twice as long, with a
        limit of 30 seconds.
      - A server that answers with C(Retry-After) gets that time, with a limit of 60 seconds.
    type: float
    default: 1
  headers:
    description:
      - Headers to send with each request, for example an authorization. Values have at least 8 characters and are never shown.
    type: dict
    default: {}
attributes:
  check_mode:
    description: It only reads, so that check mode makes no difference.
    support: full
  diff_mode:
    description: Nothing is changed here.
    support: none
  idempotent:
    description: Nothing is changed here.
    support: full
seealso:
  - module: hbp.mip.cde_consolidate
"""

EXAMPLES = r"""
- name: Ask the catalogue
  hbp.mip.data_catalogue:
    host: datacatalogue.example.org
    pathologies: [dementia, tbi]
  delegate_to: localhost
  register: answered

- name: Ask a catalogue inside the hospital, with a certificate of its own authority
  hbp.mip.data_catalogue:
    host: 192.0.2.20:8443
    ca_file: /etc/ssl/hospital-ca.pem
    timeout: 5
    retries: 1
    headers:
      Authorization: "Bearer {{ vault_catalogue_token }}"
    pathologies: [dementia]
"""

RETURN = r"""
catalogue:
  description: What the catalogue gave, by pathology.
  returned: always
  type: dict
  contains:
    content:
      description: Bytes of the C(CDEsMetadata.json), compressed with zlib, in base64.
      type: str
    sha256:
      description: SHA-256 of those bytes before compression.
      type: str
    url:
      description: Where it was asked for.
      type: str
    shape:
      description: Whether the answer was the CDEs themselves, or an object with the key C(jsonString).
      type: str
      choices: [plain, wrapped]
    seconds:
      description: How long it took, with all attempts and pauses.
      type: float
    attempts:
      description: How many attempts were needed.
      type: int
problems:
  description: Why there is nothing for the other pathologies (code, pathology, message, fix).
  returned: always
  type: list
  elements: dict
  sample:
    - code: catalogue-absent
      pathology: tbi
      message: "https://c.example.org/pathology/allPathologies/tbi/latest_cde_version: HTTP 404 (Not Found): the catalogue has no ..."
      fix: "is the folder named as the pathology is there? ..."
mip_error:
  description: V(configuration) when an option cannot be used.
  returned: when it fails
  type: str
"""

import base64
import zlib
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.hbp.mip.plugins.module_utils import _catalogue


def describe(found: _catalogue.Found) -> Dict[str, Any]:
    """One pathology in the module's result."""
    return {**found._asdict(), "content": base64.b64encode(zlib.compress(found.content)).decode("ascii")}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "protocol": {"type": "str", "choices": ["http", "https"], "default": "https"},
            "host": {"type": "str", "required": True},
            "pathologies": {"type": "list", "elements": "str", "required": True},
            "ca_file": {"type": "path"},
            "verify": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 20},
            "retries": {"type": "int", "default": 3},
            "backoff": {"type": "float", "default": 1},
            "headers": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    try:
        catalogue = _catalogue.make_catalogue(module.params)
    except _catalogue.OptionError as error:
        module.fail_json(msg=str(error), mip_error="configuration")
    if catalogue.protocol == "https" and not module.params["verify"]:
        module.warn("the certificate of %s is not verified: anybody on the way can answer in its place" % catalogue.base)
    found, problems = _catalogue.ask_all(catalogue, module.params["pathologies"])
    module.exit_json(changed=False, catalogue={name: describe(item) for name, item in found.items()}, problems=problems)


if __name__ == "__main__":
    main()
