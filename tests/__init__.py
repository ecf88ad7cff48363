# SPDX-License-Identifier: Apache-2.0
"""Tests mirror `src/shieldwall`; what concerns the whole house stands at the top."""

from hypothesis import settings

# No test asserts how long something takes: on a busy machine a deadline fails for no fault of the code.
settings.register_profile("shieldwall", deadline=None)
settings.load_profile("shieldwall")
