# SPDX-License-Identifier: Apache-2.0
"""The budget ledger: what every run may spend and has spent on a data set, written before it is spent.

*Formal guarantee.* At every instant, ε(ledger) ≥ ε(all steps whose output could have left the process): a
step may draw noise only after a lease that covers it was committed to disk. A crash over-counts by at most
one lease.

| what happens | what the ledger does |
|---|---|
| kill, power cut | keeps the whole lease as spent; what was never leased stays reserved until `settle` |
| disk full, failed fsync | LedgerError before the step; this handle writes nothing more |
| two processes | one lock and one transaction: the sum of reservations stays within the limit |
| an older copy of the ledger is put back | refused: the chain's head is kept outside the ledger's folder |
| network file system, second host | refused |
| clock set back | nothing: events are ordered by number and hold no time |

It holds no clock, path, key, seed or patient identifier. A data set is known by a keyed digest of its
fingerprint. An administrator who can put back *all* of the user's files at once, the head included, is not
detected.
"""

from __future__ import annotations

from confide.privacy.ledger.book import Ledger
from confide.privacy.ledger.composition import Spent
from confide.privacy.ledger.places import default_path
from confide.privacy.ledger.reservation import Reservation

__all__ = ["Ledger", "Reservation", "Spent", "default_path"]
