# SPDX-License-Identifier: Apache-2.0
"""What time, memory and figures cost; never timed in tests. (Opacus installs a package of this name too.)"""
