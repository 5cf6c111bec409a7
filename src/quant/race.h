// A race between candidates (Maron and Moore 1994; with paired differences as in F-Race, Birattari et al. 2002): who is worse than the
// best beyond doubt on the cases seen so far need not run over the others.
#pragma once
#include <cstddef>
#include <vector>

namespace awq {

// errors[c][i] of candidate c in case i, of all candidates the same cases. The first of the least sums; one that is not finite never wins
// over one that is.
size_t least_sum(const std::vector<std::vector<double>>& errors);

// Whether each candidate's mean error is above that of least_sum by more than three standard errors of the paired differences. Fewer than
// eight cases prove nothing; an error that is not finite does.
std::vector<bool> worse_beyond_doubt(const std::vector<std::vector<double>>& errors);

}  // namespace awq
