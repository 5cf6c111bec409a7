#!/usr/bin/env bash
# The int8 products of every instruction set this machine has give the same bits on 10 million random blocks of weights
# (16 rows by 32 to 128 columns; 3, 4 and 8 bits), and those of the definition: tests/full/int8_blocks.sh [BLOCKS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
AWQ_TEST_BLOCKS=${1:-10000000} build/tests/test_kernels --gtest_filter='Int8Linear.RandomBlocks'
