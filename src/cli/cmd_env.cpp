// awq env: facts about this machine and build that explain a result, and that a bug report needs.
#include <fmt/core.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/system.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "kernels/devices.h"

namespace awq::cli {
namespace {

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name"))
      if (const size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  utsname name{};
  return ::uname(&name) == 0 ? name.machine : "unknown";
}

std::string describe(const CudaDevice& d) {
  return fmt::format("{} (compute capability {}.{}, {} multiprocessors, {})", d.name, d.major, d.minor,
                     d.multiprocessors, human_bytes(static_cast<double>(d.memory_bytes)));
}

int run(const Context& context) {
  const std::string model = cpu_model();
  const int64_t total = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  const int64_t available = available_ram_bytes();
  const int64_t disk = free_disk_bytes(std::filesystem::current_path());
  const std::vector<CudaDevice> gpus = cuda_devices();
  if (context.json) {
    auto devices = nlohmann::ordered_json::array({"cpu"});
    for (size_t i = 0; i < gpus.size(); ++i)
      devices.push_back(fmt::format("cuda:{} {}", i, describe(gpus[i])));
    print_json({{"schema", "awq.env/1"},
                {"version", kVersion},
                {"compiler", __VERSION__},
                {"cpu", model},
                {"isa", isa_name(isa())},
                {"cores", available_cores()},
                {"threads", threads()},
                {"devices", std::move(devices)},
                {"ram_bytes", total},
                {"ram_available_bytes", available},
                {"disk_free_bytes", disk}});
    return 0;
  }
  print_line(fmt::format("awq      {} (g++ {})", kVersion, __VERSION__));
  print_line(fmt::format("cpu      {}", model));
  print_line(fmt::format("kernels  {} (AWQ_ISA lowers it)", isa_name(isa())));
  if (gpus.empty()) print_line(fmt::format("gpu      {}", cuda_absence()));
  for (const CudaDevice& gpu : gpus) print_line(fmt::format("gpu      {}", describe(gpu)));
  print_line(fmt::format("threads  {} of {} cores available", threads(), available_cores()));
  print_line(fmt::format("memory   {} available of {}", human_bytes(static_cast<double>(available)),
                         human_bytes(static_cast<double>(total))));
  print_line(fmt::format("disk     {} free here", human_bytes(static_cast<double>(disk))));
  return 0;
}

}  // namespace

void add_env(CLI::App& app, Context& context) {
  add_command(
      app, context,
      {"env", "Show version, processor, kernels, threads, memory and disk", "awq env\nawq env --json"},
      [&context] { return run(context); });
}

}  // namespace awq::cli
