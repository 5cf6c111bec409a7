#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/checked.h"
#include "base/half.h"
#include "base/log.h"
#include "base/mmap.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "base/system.h"
#include "base/thread_pool.h"

namespace awq {
namespace {

class TempDir : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::temp_directory_path() / ("awq-base-" + std::to_string(::getpid()) + "-" +
                                                     ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::filesystem::path dir_;
};
using Files = TempDir;

Code code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Code::kInternal;
}

// The compiler's _Float16 rounds in hardware or in its own software: an independent implementation.
TEST(Half, EveryFp16ValueConvertsExactly) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float expected = static_cast<float>(std::bit_cast<_Float16>(static_cast<uint16_t>(h)));
    const float got = fp16_to_f32(static_cast<fp16_t>(h));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(got)) << h;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(expected)) << h;
      ASSERT_EQ(f32_to_fp16(got), h);
    }
  }
}

TEST(Half, RoundsToNearestEvenEverywhere) {
  for (uint64_t u = 0; u < 0x100000000ull; u += 8191) {  // a step coprime to every power of two
    const float f = std::bit_cast<float>(static_cast<uint32_t>(u));
    if (std::isnan(f)) continue;
    ASSERT_EQ(f32_to_fp16(f), std::bit_cast<uint16_t>(static_cast<_Float16>(f))) << u;
    const float down = std::bit_cast<float>(static_cast<uint32_t>(u) & 0xffff0000u);
    const float up = std::bit_cast<float>((static_cast<uint32_t>(u) & 0xffff0000u) + 0x10000u);
    const float got = bf16_to_f32(f32_to_bf16(f));
    ASSERT_TRUE(got == down || got == up) << u;
    if (std::isfinite(up)) {
      ASSERT_LE(std::fabs(static_cast<double>(got) - f), std::fabs(static_cast<double>(up) - down) / 2) << u;
    }
  }
  EXPECT_TRUE(std::isnan(fp16_to_f32(f32_to_fp16(NAN))));
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
  EXPECT_EQ(f32_to_fp16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_fp16(65520.0f), 0x7c00);
}

TEST(Checked, RefusesToWrap) {
  EXPECT_EQ(checked_mul(1 << 20, 1 << 20, "x"), int64_t{1} << 40);
  EXPECT_EQ(code_of([] { checked_mul(int64_t{1} << 40, int64_t{1} << 40, "header"); }), Code::kBadFile);
  EXPECT_EQ(code_of([] { checked_add(INT64_MAX, 1, "header"); }), Code::kBadFile);
  EXPECT_EQ(code_of([] { checked_mul(-1, 1, "header"); }), Code::kBadFile);
}

TEST(ThreadPool, RunsEveryTileOnce) {
  const int before = threads();
  for (const int n : {1, 2, 5}) {
    set_threads(n);
    std::vector<std::atomic<int>> hits(1000);
    for (int round = 0; round < 50; ++round) parallel_for(1000, [&](int64_t i) { ++hits[i]; });
    for (const auto& h : hits) ASSERT_EQ(h.load(), 50);
  }
  set_threads(before);
}

TEST(ThreadPool, NestedLoopsAndErrors) {
  const int before = threads();
  set_threads(3);
  std::atomic<int> inner{0};
  parallel_for(8, [&](int64_t) { parallel_for(4, [&](int64_t) { ++inner; }); });
  EXPECT_EQ(inner.load(), 32);
  EXPECT_EQ(code_of([] {
              parallel_for(100, [](int64_t i) {
                if (i == 42) fail(Code::kBadArgument, "tile {}", i);
              });
            }),
            Code::kBadArgument);
  int after = 0;
  parallel_for(1, [&](int64_t) { ++after; });
  EXPECT_EQ(after, 1);
  set_threads(before);
}

TEST(Sha256, KnownDigests) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(Files, MapReadWriteAndHash) {
  const auto path = dir_ / "file.txt";
  write_file_atomic(path, "abc");
  EXPECT_EQ(read_text_file(path), "abc");
  EXPECT_EQ(sha256_file(path), sha256_hex("abc"));
  EXPECT_EQ(MappedFile::open(path)->bytes().size(), 3u);
  write_file_atomic(path, "");
  EXPECT_TRUE(MappedFile::open(path)->bytes().empty());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 1) << "no temporary file stays";
  EXPECT_EQ(code_of([&] { MappedFile::open(dir_ / "none"); }), Code::kNotFound);
  EXPECT_EQ(code_of([&] { MappedFile::open(dir_); }), Code::kIo);
  EXPECT_EQ(code_of([&] { write_file_atomic(dir_ / "no" / "dir", "x"); }), Code::kIo);
}

TEST(System, FactsArePlausible) {
  EXPECT_GT(peak_rss_bytes(), 1 << 20);
  EXPECT_GT(available_ram_bytes(), 1 << 20);
  EXPECT_GT(free_disk_bytes("/tmp/not/there/yet"), 0);
  EXPECT_GE(available_cores(), 1);
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_seconds(252), "4 min 12 s");
}

TEST(Cancel, ThrowsOnceAsked) {
  check_cancelled();
  request_cancel();
  EXPECT_EQ(code_of([] { check_cancelled(); }), Code::kCancelled);
  clear_cancel();
  check_cancelled();
}

TEST(Log, GoesToTheSinkOnly) {
  std::string seen;
  set_log_sink([&](Level, std::string_view line) { seen = line; });
  log(Level::kInfo, "{} of {}", 1, 2);
  set_log_sink(nullptr);
  log(Level::kInfo, "lost");
  EXPECT_EQ(seen, "1 of 2");
}

}  // namespace
}  // namespace awq
