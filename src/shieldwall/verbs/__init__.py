# SPDX-License-Identifier: Apache-2.0
"""The verbs that need a whole node: up, keys, inspect, replay, doctor, config."""
