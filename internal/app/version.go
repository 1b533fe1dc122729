package app

// Version is set by the linker: the output of git describe.
var Version = "dev"
