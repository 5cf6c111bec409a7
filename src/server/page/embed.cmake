# Writes the files of the web page into the C++ file OUTPUT as raw string literals, in pieces that compilers take:
#   cmake "-DFILES=<...>/index.html;<...>/page.css;<...>/page.js" -DOUTPUT=page_files.cpp -P embed.cmake
set(delimiter "awq_page")
set(entries "")
foreach(path IN LISTS FILES)
  file(READ "${path}" text)
  string(FIND "${text}" ")${delimiter}\"" clash)
  if(NOT clash EQUAL -1)
    message(FATAL_ERROR "${path}: holds the delimiter of the raw string it becomes")
  endif()
  get_filename_component(name "${path}" NAME)
  string(LENGTH "${text}" left)
  set(literal "")
  set(at 0)
  while(at LESS left)
    string(SUBSTRING "${text}" ${at} 8000 piece)
    string(APPEND literal " R\"${delimiter}(${piece})${delimiter}\"")
    math(EXPR at "${at} + 8000")
  endwhile()
  string(APPEND entries "    {\"${name}\",${literal}},\n")
endforeach()
file(WRITE "${OUTPUT}" "// Made by src/server/page/embed.cmake from the files beside it.
#include \"server/page.h\"

namespace awq::server {

std::span<const PageFile> page_files() {
  static constexpr PageFile kFiles[] = {\n${entries}  };
  return kFiles;
}

}  // namespace awq::server
")
