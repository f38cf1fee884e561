// gocelery as another team has it: twenty jobs, each with its own output. Prints [column, what was seen].
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/gocelery/gocelery"
	"github.com/gomodule/redigo/redis"
)

type asked struct {
	Broker  string `json:"broker"`
	Results string `json:"results"`
	Jobs    int    `json:"jobs"`
}

func main() {
	var told asked
	if err := json.Unmarshal([]byte(os.Args[1]), &told); err != nil {
		panic(err)
	}
	pool := &redis.Pool{Dial: func() (redis.Conn, error) { return redis.DialURL(told.Broker) }}
	broker := gocelery.NewRedisBroker(pool)
	broker.QueueName = "bridge.run"
	client, err := gocelery.NewCeleryClient(broker, &gocelery.RedisCeleryBackend{Pool: pool}, 1)
	if err != nil {
		panic(err)
	}
	right := 0
	for n := 0; n < told.Jobs; n++ {
		input := map[string]interface{}{"input": map[string]interface{}{"n": n}}
		result, err := client.DelayKwargs("bridge.run", input)
		if err != nil {
			panic(err)
		}
		until := time.Now().Add(120 * time.Second)
		for time.Now().Before(until) {
			if ready, _ := result.Ready(); ready {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		found, err := result.Get(time.Second)
		if output, ok := found.(map[string]interface{}); err == nil && ok && output["n"] == float64(n) {
			right++
		}
	}
	failed := ""
	if right < told.Jobs {
		failed = "FAILS: "
	}
	said, _ := json.Marshal([]string{"jobs", fmt.Sprintf("%s%d of %d", failed, right, told.Jobs)})
	fmt.Println(string(said))
}
