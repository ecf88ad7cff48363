# SPDX-License-Identifier: Apache-2.0
"""The words, the promises and the one path: no disk, no socket, no clock of its own."""
