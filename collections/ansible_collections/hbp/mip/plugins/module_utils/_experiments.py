# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to the portal's database about the experiments in it, asked by psql in the database's own container.

What an operator gives is a parameter of a prepared statement, never a part of the SQL. It goes to psql in the environment.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List, Mapping

from ansible_collections.hbp.mip.plugins.module_utils._portal_database import NAME, dump, sql

# The columns have had several names; as JSON a row can be asked for each of them.
_ROWS = """
WITH rows AS (
  SELECT e.uuid, to_jsonb(e) AS j,
         coalesce(to_jsonb(e)->>'algorithm_details', to_jsonb(e)->>'algorithmdetails', to_jsonb(e)->>'algorithm')::jsonb AS details
  FROM experiment e
), experiments AS (
  SELECT uuid, j->>'name' AS name, coalesce(j->>'created_by_username', j->>'createdby_username') AS who, j->>'created' AS created,
         j->>'finished' AS finished, j->>'status' AS status, details->>'name' AS algorithm,
         (SELECT p->>'value' FROM jsonb_array_elements(details->'parameters') p WHERE p->>'name' = 'pathology' LIMIT 1) AS pathology,
         (SELECT p->>'value' FROM jsonb_array_elements(details->'parameters') p WHERE p->>'name' = 'dataset' LIMIT 1) AS datasets
  FROM rows
), chosen AS (
  SELECT * FROM experiments
  WHERE CASE $1::jsonb->>'mode'
    WHEN 'of' THEN coalesce($1::jsonb->'pathologies' ? pathology, false)
    WHEN 'outside' THEN pathology IS NOT NULL AND NOT ($1::jsonb->'pathologies' ? pathology)
    ELSE $1::jsonb->>'since' = '' OR coalesce(finished, created) >= $1::jsonb->>'since'
  END
)
"""
_LIST = """
\\set given `printenv MIP_GIVEN`
PREPARE ask(text) AS @ROWS@
SELECT coalesce(json_agg(chosen ORDER BY created, uuid), '[]') FROM chosen;
EXECUTE ask(:'given');
"""
LIST = _LIST.replace("@ROWS@", _ROWS)
# A user who loses the last experiment goes too, and is made again at the next login.
_PURGE = """
\\set given `printenv MIP_GIVEN`
BEGIN;
LOCK TABLE experiment IN SHARE ROW EXCLUSIVE MODE;
CREATE TEMPORARY TABLE doomed ON COMMIT DROP AS SELECT uuid, NULL::text AS who FROM experiment WHERE false;
PREPARE choose(text) AS @ROWS@
INSERT INTO doomed SELECT uuid, who FROM chosen;
EXECUTE choose(:'given');
DELETE FROM experiment e USING doomed d WHERE e.uuid = d.uuid;
DELETE FROM "user" u WHERE u.username IN (SELECT who FROM doomed) AND NOT EXISTS (
  SELECT 1 FROM experiment e WHERE coalesce(to_jsonb(e)->>'created_by_username', to_jsonb(e)->>'createdby_username') = u.username
);
SELECT count(*) FROM doomed;
COMMIT;
"""
PURGE = _PURGE.replace("@ROWS@", _ROWS)


def listed(client: Any, container: str, given: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Return the experiments that are meant, the oldest first."""
    lines = sql(client, container, LIST, NAME, given)
    found: List[Dict[str, Any]] = json.loads("\n".join(lines) or "[]")
    return found


def purged(client: Any, container: str, given: Mapping[str, Any]) -> int:
    """Remove the experiments that are meant, in one transaction; return how many."""
    return int(sql(client, container, PURGE, NAME, given)[-1])


def backup(client: Any, container: str, folder: str) -> str:
    """Write a dump of the database into a folder that only root can enter; return its path."""
    path = os.path.join(folder, "portal-%s.dump" % time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    dump(client, container, path)
    return path
