// HumanEval's own solutions in the sandbox: each must pass, and each must fail with its result changed to None.
// Usage: awq_humaneval_sandbox HUMANEVAL.jsonl
#include <cstdio>
#include <exception>

#include "eval/answer_task.h"

int main(int argc, char** argv) try {
  if (argc != 2) throw awq::Error(awq::Code::kBadArgument, "usage: awq_humaneval_sandbox HUMANEVAL.jsonl");
  const awq::Sandbox sandbox;
  const awq::AnswerData data = awq::read_humaneval(argv[1], 0);
  const awq::TaskFile file = awq::read_task_file(argv[1]);
  size_t passed = 0, wrong_passed = 0;
  double slowest = 0;
  for (size_t i = 0; i < data.items.size(); ++i) {
    const std::string solution = file.lines[i].text({"canonical_solution"});
    const awq::SandboxResult right = sandbox.run(data.items[i].prompt + solution + data.items[i].test);
    if (right.end != awq::SandboxEnd::kPassed) std::printf("%s: %s\n%s\n", data.items[i].target.c_str(), right.reason.c_str(), right.output.c_str());
    passed += right.end == awq::SandboxEnd::kPassed;
    slowest = right.seconds > slowest ? right.seconds : slowest;
    wrong_passed += sandbox.run(data.items[i].prompt + "    return None\n" + data.items[i].test).end == awq::SandboxEnd::kPassed;
  }
  std::printf("%zu of %zu solutions pass, %zu of as many wrong ones; the slowest took %.2f s\n", passed, data.items.size(), wrong_passed, slowest);
  return passed == data.items.size() && wrong_passed == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
