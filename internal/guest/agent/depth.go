package agent

// startDepth is as much stack as the start of a command takes, in bytes, with room for what is called on the way.
const startDepth = 6 << 10

// deepen has the goroutine's stack grow at once to what the start of a command needs. It begins with 2 KiB and would be doubled
// deep in the calls, and to move a stack the runtime looks up each of its frames: 20,000 instructions each time, for every command.
// It returns 0, of a place that the compiler does not know.
//
//go:noinline
func deepen(at int) byte {
	var room [startDepth]byte
	return room[at]
}
