// Package asciicast writes and reads recordings of terminals: asciicast v2, https://docs.asciinema.org/manual/asciicast/v2/.
//
// A recording is a file of lines. The first is a JSON object, the Header; each of the others is an event, a JSON array of the
// seconds since the start, a code and data:
//
//	{"version": 2, "width": 80, "height": 24, "timestamp": 1732400000}
//	[0.248848, "o", "hello\r\n"]
//	[1.001376, "r", "100x50"]
package asciicast

import "time"

// Codes of events. Readers leave out codes that they do not know.
const (
	Output = "o" // the terminal was sent this
	Input  = "i" // this was typed
	Resize = "r" // the terminal has a new size, WIDTHxHEIGHT
	Marker = "m"
)

// Header says what was recorded.
type Header struct {
	Version   int               `json:"version"` // 2
	Width     int               `json:"width"`   // in columns; 0 when it was not known
	Height    int               `json:"height"`  // in rows; 0 when it was not known
	Timestamp int64             `json:"timestamp,omitempty"`
	Command   string            `json:"command,omitempty"`
	Title     string            `json:"title,omitempty"`
	IdleLimit float64           `json:"idle_time_limit,omitempty"` // seconds
	Env       map[string]string `json:"env,omitempty"`
}

// Event is what happened, and when.
type Event struct {
	Time time.Duration // since the start
	Code string
	Data string // empty for a code that is not known
}
