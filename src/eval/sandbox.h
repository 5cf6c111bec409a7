// Runs Python that a model wrote, in a process of its own that can do next to nothing (Linux): a seccomp filter lets through the
// system calls that computing needs, so no network, no other process and no file opened for writing; Landlock leaves only Python's
// own files readable; limits hold time, memory and output. Nothing of it can be undone from inside.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace awq {

struct SandboxLimits {
  double seconds = 5;                           // of wall time; processor time ends a second later
  int64_t memory_bytes = int64_t{1} << 30;      // of address space
  int64_t output_bytes = int64_t{64} << 10;     // kept; what comes after is read and dropped
};

enum class SandboxEnd : uint8_t { kPassed, kFailed, kTimeout };

struct SandboxResult {
  SandboxEnd end = SandboxEnd::kFailed;
  std::string output;  // standard output and error, cut to the limit
  std::string reason;  // "passed", "exit status 1", "killed by signal 9", "no end within 5 s"
  double seconds = 0;
};

class Sandbox {
 public:
  // Finds the interpreter: `python`, or python3 on the PATH. kNotFound; kUnsupported where the kernel lacks seccomp or Landlock
  // (Linux before 5.13), for then nothing would hold what runs.
  explicit Sandbox(const std::string& python = "");
  // Passed: the program ran to its end. One that ends itself early, with whatever status, has not.
  SandboxResult run(const std::string& program, const SandboxLimits& limits = {}) const;
  const std::string& interpreter() const { return interpreter_; }

 private:
  std::string interpreter_;
  std::vector<std::string> readable_;
};

}  // namespace awq
