// The same work as bench/bare.c, done the way a Go program would do it: net/http and encoding/json.
// usage: nethttp ask|stream|paced|init|idle key=value…      (bench/run builds it into build/bench)
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var args = map[string]int{"port": 0, "n": 10000, "concurrency": 1, "streams": 500, "gap": 100, "delay": 1000}
var client *http.Client

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}
type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}
type request struct {
	Model         string         `json:"model"`
	Messages      []message      `json:"messages"`
	Stream        bool           `json:"stream,omitempty"`
	StreamOptions *streamOptions `json:"stream_options,omitempty"`
}
type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}
type reply struct {
	ID, Object, Model string
	Created           int64
	Choices           []struct {
		Index        int
		Message      message
		Delta        message
		FinishReason *string `json:"finish_reason"`
	}
	Usage *usage
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "nethttp:", err)
		os.Exit(1)
	}
}

func cpuUs() float64 {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

func kib(name string) float64 {
	status, err := os.ReadFile("/proc/self/status")
	check(err)
	m := regexp.MustCompile(name + `:\s*(\d+)`).FindSubmatch(status)
	v, err := strconv.ParseFloat(string(m[1]), 64)
	check(err)
	return v
}

func report(mode string, fields map[string]any) {
	fields["client"], fields["mode"], fields["maxrss_kib"] = "go net/http", mode, kib("VmHWM")
	line, err := json.Marshal(fields)
	check(err)
	fmt.Println(string(line))
}

func post(model string, stream bool) *http.Response {
	body := request{Model: model, Messages: []message{{"user", "Why is the sky blue?"}}, Stream: stream}
	if stream {
		body.StreamOptions = &streamOptions{true}
	}
	data, err := json.Marshal(body)
	check(err)
	url := fmt.Sprintf("http://127.0.0.1:%d/v1/chat/completions", args["port"])
	req, err := http.NewRequest("POST", url, bytes.NewReader(data))
	check(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer bench-key")
	res, err := client.Do(req)
	check(err)
	if res.StatusCode != 200 {
		check(fmt.Errorf("status %d", res.StatusCode))
	}
	return res
}

// many runs n goroutines and waits for them.
func many(n int, f func()) {
	var all sync.WaitGroup
	for i := 0; i < n; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			f()
		}()
	}
	all.Wait()
}

func ask(n, concurrency int) int64 {
	left, size := int64(n), int64(0)
	many(concurrency, func() {
		for atomic.AddInt64(&left, -1) >= 0 {
			res := post("bench", false)
			var r reply
			check(json.NewDecoder(res.Body).Decode(&r))
			res.Body.Close()
			if r.Usage == nil || r.Usage.CompletionTokens != 32 {
				check(fmt.Errorf("not a whole reply"))
			}
			atomic.AddInt64(&size, int64(len(r.Choices[0].Message.Content)))
		}
	})
	return size
}

func stream(model string, text func(string)) {
	res := post(model, true)
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		line := lines.Bytes()
		if !bytes.HasPrefix(line, []byte("data: ")) || string(line) == "data: [DONE]" {
			continue
		}
		var r reply
		check(json.Unmarshal(line[6:], &r))
		if len(r.Choices) > 0 && r.Choices[0].Delta.Content != "" {
			text(r.Choices[0].Delta.Content)
		}
	}
	check(lines.Err())
}

func whole(n int) int {
	deltas, size := 0, 0
	stream(fmt.Sprintf("bench-n%d", n), func(s string) { deltas++; size += len(s) })
	if deltas != n {
		check(fmt.Errorf("%d of %d deltas", deltas, n))
	}
	return size
}

func modeAsk() {
	n, concurrency := args["n"], args["concurrency"]
	warm := 2 * concurrency
	if warm < 1000 {
		warm = 1000
	}
	ask(warm, concurrency)
	start, cpu := time.Now(), cpuUs()
	size := ask(n, concurrency)
	cpu = cpuUs() - cpu
	report("ask", map[string]any{"n": n, "cpu_us_per_unit": cpu / float64(n), "wall_s": time.Since(start).Seconds(),
		"text_bytes": size})
}

func modeStream() {
	n := args["n"]
	whole(9600)
	start, cpu := time.Now(), cpuUs()
	size := whole(n)
	cpu = cpuUs() - cpu
	report("stream", map[string]any{"n": n, "cpu_us_per_unit": cpu / float64(n), "wall_s": time.Since(start).Seconds(),
		"text_bytes": size})
}

func modePaced() {
	whole(3200)
	streams, n := args["streams"], args["n"]
	before, from, to := kib("VmRSS"), int64(streams), int64(streams*(n-1))
	var seen, size int64
	var cpuFrom, cpuTo float64
	model := fmt.Sprintf("bench-n%d-gap%d-delay%d", n, args["gap"], args["delay"])
	start := time.Now()
	many(streams, func() {
		stream(model, func(s string) {
			atomic.AddInt64(&size, int64(len(s)))
			switch atomic.AddInt64(&seen, 1) {
			case from:
				cpuFrom = cpuUs()
			case to:
				cpuTo = cpuUs()
			}
		})
	})
	if seen != int64(streams*n) {
		check(fmt.Errorf("%d of %d deltas", seen, streams*n))
	}
	report("paced", map[string]any{"n": seen, "streams": streams, "cpu_us_per_unit": (cpuTo - cpuFrom) / float64(to-from),
		"wall_s": time.Since(start).Seconds(), "text_bytes": size, "kib_per_stream": (kib("VmHWM") - before) / float64(streams)})
}

func main() {
	mode := ""
	if len(os.Args) > 1 {
		mode = os.Args[1]
		for _, arg := range os.Args[2:] {
			key, value, _ := strings.Cut(arg, "=")
			v, err := strconv.Atoi(value)
			if _, known := args[key]; !known || err != nil {
				check(fmt.Errorf("unknown argument %s", arg))
			}
			args[key] = v
		}
	}
	client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100000, DisableCompression: true}}
	switch mode {
	case "ask":
		modeAsk()
	case "stream":
		modeStream()
	case "paced":
		modePaced()
	case "init":
		fmt.Println("ready")
	case "idle":
		time.Sleep(50 * time.Millisecond)
		report("idle", map[string]any{"rss_kib": kib("VmRSS")})
	default:
		check(fmt.Errorf("usage: nethttp ask|stream|paced|init|idle key=value…"))
	}
}
