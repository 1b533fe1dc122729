// Package terminal handles the terminal that the command line runs on.
//
// A Session has it in raw mode while a program in a guest uses it, and puts it back on every way out: the end of the
// command, an error, a panic, a signal that ends this process, and while this process is stopped. Modes tells from the
// program's output what it has switched on in the terminal, so that this can be switched off when the program is cut short.
//
// Sources: termios(3); the control sequences as in "XTerm Control Sequences" (Dickey) and, for the keyboard, the kitty
// keyboard protocol.
package terminal
