# potc_compile(OUTPUT <file> MODEL <file> RULES <file or name> [DATA <file>] [REPORT <file>] [OPTIONS <word>...])
#
# Compiles MODEL to OUTPUT, relative to CMAKE_CURRENT_BINARY_DIR. MODEL, DATA and a RULES that is a file are relative to
# CMAKE_CURRENT_SOURCE_DIR. Everything that potc reads becomes a dependency, imported rule files and external data too.
# POTC_EXECUTABLE is the program; found in PATH if it is not set. Makefile and Ninja generators, CMake 3.20 or later.
include_guard()

function(potc_compile)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "OUTPUT;MODEL;RULES;DATA;REPORT" "OPTIONS")
  foreach(name OUTPUT MODEL RULES)
    if(NOT arg_${name})
      message(FATAL_ERROR "potc_compile: ${name} is missing")
    endif()
  endforeach()
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "potc_compile: what is ${arg_UNPARSED_ARGUMENTS}?")
  endif()
  if(NOT POTC_EXECUTABLE)
    find_program(POTC_EXECUTABLE potc REQUIRED)
  endif()

  get_filename_component(output "${arg_OUTPUT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_BINARY_DIR}")
  get_filename_component(model "${arg_MODEL}" ABSOLUTE)
  get_filename_component(rules "${arg_RULES}" ABSOLUTE)
  set(depends "${model}")
  if(EXISTS "${rules}")
    list(APPEND depends "${rules}")
  else()
    set(rules "${arg_RULES}") # the name of a shipped one
  endif()
  set(words compile "${model}" --rules "${rules}" -o "${output}" --depfile "${output}.d" --depfile-target "${output}.stamp" -q)
  if(arg_DATA)
    get_filename_component(data "${arg_DATA}" ABSOLUTE)
    list(APPEND words --data "${data}")
    list(APPEND depends "${data}")
  endif()
  if(arg_REPORT)
    get_filename_component(report "${arg_REPORT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_BINARY_DIR}")
    list(APPEND words --report "${report}")
  endif()

  # The stamp tells that potc ran; the model keeps its time where its content is as before.
  add_custom_command(
    OUTPUT "${output}.stamp"
    BYPRODUCTS "${output}" ${report}
    COMMAND ${POTC_EXECUTABLE} ${words} ${arg_OPTIONS}
    COMMAND "${CMAKE_COMMAND}" -E touch "${output}.stamp"
    DEPENDS ${depends}
    DEPFILE "${output}.d"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMENT "potc ${arg_OUTPUT}"
    VERBATIM)
endfunction()
