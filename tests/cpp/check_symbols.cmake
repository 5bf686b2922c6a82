# cmake -D NM=… -D ISA=… -D OBJECTS=… -P check_symbols.cmake
# Everything that the kernel files of an instruction set define for the linker lies in the set's namespace. A function
# outside of it would be shared with the other sets, and then run where the CPU doesn't know its instructions.
execute_process(
  COMMAND "${NM}" --defined-only --extern-only ${OBJECTS}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [TWVuBDRC] [^\n]+" symbols "${symbols}")
set(inside 0)
foreach(symbol IN LISTS symbols)
  string(REGEX REPLACE "^[0-9a-f]+ . " "" name "${symbol}")
  string(LENGTH "${ISA}" length)
  if(name MATCHES "^_ZZ?N[KVr]*4ralx${length}${ISA}")
    math(EXPR inside "${inside} + 1")
  elseif(NOT name MATCHES "^DW\\.ref\\.|^\\.gomp_critical_user_")  # data: the same in every set
    message(SEND_ERROR "${ISA}: defined outside of namespace ralx::${ISA}: ${name}")
  endif()
endforeach()
if(inside EQUAL 0)
  message(FATAL_ERROR "${ISA}: no symbols found in ${OBJECTS}")
endif()
message(STATUS "${ISA}: ${inside} symbols, all in ralx::${ISA}")
