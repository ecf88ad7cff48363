# SPDX-License-Identifier: Apache-2.0
"""What is done about what was found: policies written in Cedar turn findings into an action.

Importing this costs nothing of the engine; it is loaded with the first policy.
"""

from shieldwall.govern.policy import PROFILES, CedarPolicy, PolicyRule, load_policy

__all__ = ["PROFILES", "CedarPolicy", "PolicyRule", "load_policy"]
