package hostvirt

const hasTSC = true

// readTSC reads the time-stamp counter: instruction RDTSC.
func readTSC() uint64
