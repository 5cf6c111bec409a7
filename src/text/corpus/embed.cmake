# Writes texts into the C++ file OUTPUT as raw string literals:
#   cmake "-DFILES=<...>/calib/01_a.txt;<...>/heldout/01_b.txt" -DOUTPUT=corpus.cpp -P embed.cmake
# Within calib and heldout files are taken in the order of their names, in which their samples are then mixed.
set(delimiter "awq_corpus")
list(SORT FILES)

function(embed folder function result)
  set(files ${FILES})
  list(FILTER files INCLUDE REGEX "/${folder}/[^/]+$")
  set(entries "")
  foreach(path IN LISTS files)
    file(READ "${path}" text)
    string(FIND "${text}" ")${delimiter}\"" clash)
    if(NOT clash EQUAL -1)
      message(FATAL_ERROR "${path}: holds the delimiter of the raw string it becomes")
    endif()
    get_filename_component(name "${path}" NAME)
    string(APPEND entries "    {\"${folder}/${name}\"sv, R\"${delimiter}(${text})${delimiter}\"sv},\n")
  endforeach()
  set(${result} "std::span<const CorpusFile> ${function}() {
  static constexpr CorpusFile kFiles[] = {\n${entries}  };\n  return kFiles;\n}\n" PARENT_SCOPE)
endfunction()

embed(calib calibration_files calibration)
embed(heldout heldout_files heldout)
file(WRITE "${OUTPUT}" "// Made by src/text/corpus/embed.cmake from the files beside it.
#include \"text/corpus.h\"

using namespace std::literals;

namespace awq {

${calibration}
${heldout}
}  // namespace awq
")
