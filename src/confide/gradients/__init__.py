# SPDX-License-Identifier: Apache-2.0
"""Clipped sums of per-sample gradients, exact, without forming the gradients where a norm suffices."""
