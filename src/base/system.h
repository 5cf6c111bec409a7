// Facts about this process and machine, and whole-file helpers.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace awq {

int64_t peak_rss_bytes();       // highest resident set of this process so far (VmHWM)
int64_t rss_bytes();            // resident set now
// Gives back what the heap keeps of freed memory: after loading a model that is tens of MiB which nothing would use again.
void return_freed_memory();
int64_t available_ram_bytes();  // MemAvailable, capped by the cgroup limit
int64_t free_disk_bytes(const std::filesystem::path& path);  // for the nearest existing parent

double now_seconds();  // monotonic clock

std::string read_text_file(const std::filesystem::path& path);  // kNotFound / kIo, naming the path
// Writes to a temporary name beside path, fsyncs, renames over path. Throws kIo / kNoSpace naming the path.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);
void fsync_path(const std::filesystem::path& path);  // file or directory

// Instruction-set path of the kernels. Detected once; the environment variable AWQ_ISA=portable|avx2|avx512|
// avx512bf16 lowers it (asking for more than the machine has is an error naming what it has).
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Bf16 };
Isa isa();
const char* isa_name(Isa isa);
void set_isa(Isa isa);  // for tests: must not exceed what the machine has

std::string human_bytes(double bytes);      // "1.09 GiB"
std::string human_seconds(double seconds);  // "4 min 12 s"

}  // namespace awq
